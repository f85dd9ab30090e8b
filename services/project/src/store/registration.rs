//! SQL statements about reservations of projects.

use chassis::{OrgId, Result, Tx, UserId};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;
use worker::retention;

use super::Reservation;
use crate::project::ProjectRef;

/// Largest number of reservations that one transaction releases.
const EXPIRED_MAX: i64 = 100;

/// Serializes the reservations of an organization until the transaction ends.
pub(crate) async fn lock_organization(tx: &mut Tx, org_id: OrgId) -> Result<()> {
    query!("select pg_advisory_xact_lock(hashtextextended($1, 2))", org_id.to_string())
        .fetch_one(tx.conn())
        .await?;
    Ok(())
}

/// Locks the reservation of an earlier attempt of the same call.
pub(crate) async fn lock_by_request(
    tx: &mut Tx,
    org_id: OrgId,
    creator_id: UserId,
    request_id: Uuid,
) -> Result<Option<Reservation>> {
    let reservation = query_as!(
        Reservation,
        "select org_id, project_id, creator_id, request_id, slug, confirmed, registered, created_at
         from project_reservation where org_id = $1 and creator_id = $2 and request_id = $3 for update",
        org_id.0,
        creator_id.0,
        request_id
    );
    Ok(reservation.fetch_optional(tx.conn()).await?)
}

/// Slugs of the organization's projects and pending reservations that begin with this one.
pub(crate) async fn slugs_with_prefix(
    tx: &mut Tx,
    org_id: OrgId,
    slug: &str,
) -> Result<Vec<String>> {
    let slugs = query_scalar!(
        r#"select slug as "slug!" from project
           where org_id = $1 and starts_with(lower(slug), lower($2))
           union all
           select slug from project_reservation
           where org_id = $1 and starts_with(lower(slug), lower($2)) and not confirmed"#,
        org_id.0,
        slug
    );
    Ok(slugs.fetch_all(tx.conn()).await?)
}

/// Stores a new reservation.
pub(crate) async fn insert(tx: &mut Tx, reservation: &Reservation) -> Result<()> {
    query!(
        "insert into project_reservation (org_id, project_id, creator_id, request_id, slug, created_at)
         values ($1, $2, $3, $4, $5, $6)",
        reservation.org_id.0,
        reservation.project_id.0,
        reservation.creator_id.0,
        reservation.request_id,
        reservation.slug,
        reservation.created_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Restarts the time after which a pending reservation expires.
pub(crate) async fn renew(tx: &mut Tx, project: ProjectRef) -> Result<()> {
    let now = tx.now;
    query!(
        "update project_reservation set created_at = $3 where org_id = $1 and project_id = $2",
        project.org_id.0,
        project.project_id.0,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Confirms a pending reservation. `false`: there is none.
pub(crate) async fn confirm(tx: &mut Tx, project: ProjectRef) -> Result<bool> {
    let confirmed = query!(
        "update project_reservation set confirmed = true
         where org_id = $1 and project_id = $2 and not confirmed",
        project.org_id.0,
        project.project_id.0
    );
    Ok(confirmed.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Notes that identity's event `ProjectRegistered` has arrived. `false`: there is no reservation.
pub(crate) async fn mark_registered(tx: &mut Tx, project: ProjectRef) -> Result<bool> {
    let marked = query!(
        "update project_reservation set registered = true where org_id = $1 and project_id = $2",
        project.org_id.0,
        project.project_id.0
    );
    Ok(marked.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Deletes a pending reservation and returns it.
pub(crate) async fn delete_pending(
    tx: &mut Tx,
    project: ProjectRef,
) -> Result<Option<Reservation>> {
    let reservation = query_as!(
        Reservation,
        "delete from project_reservation where org_id = $1 and project_id = $2 and not confirmed
         returning org_id, project_id, creator_id, request_id, slug, confirmed, registered, created_at",
        project.org_id.0,
        project.project_id.0
    );
    Ok(reservation.fetch_optional(tx.conn()).await?)
}

/// Locks pending reservations that were created before a time, oldest first, a limited number at once.
pub(crate) async fn lock_expired(tx: &mut Tx, before: OffsetDateTime) -> Result<Vec<Reservation>> {
    // Reservations of all organizations (no org_id).
    let expired = query_as!(
        Reservation,
        "select org_id, project_id, creator_id, request_id, slug, confirmed, registered, created_at
         from project_reservation where created_at < $1 and not confirmed
         order by created_at limit $2 for update skip locked",
        before,
        EXPIRED_MAX
    );
    Ok(expired.fetch_all(tx.conn()).await?)
}

/// Deletes confirmed reservations that were created before a time, a limited number at once. Returns how
/// many.
pub(crate) async fn delete_confirmed(tx: &mut Tx, before: OffsetDateTime) -> Result<u64> {
    // Reservations of all organizations (no org_id).
    let deleted = query!(
        "delete from project_reservation where project_id in (
             select project_id from project_reservation where created_at < $1 and confirmed
             order by created_at limit $2)",
        before,
        retention::BATCH
    );
    Ok(deleted.execute(tx.conn()).await?.rows_affected())
}
