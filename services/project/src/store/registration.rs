//! SQL statements about registrations of projects with identity.

use chassis::{Result, Tx};
use project_rules::{project::registration::RegistrationState, types::ProjectRef};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use worker::retention;

/// Largest number of registrations that one transaction abandons.
const EXPIRED_MAX: i64 = 100;

/// Locks the id of a project until the transaction ends: its creation and the end of its registration exclude
/// each other.
pub(crate) async fn lock_project_id(tx: &mut Tx, project: ProjectRef) -> Result<()> {
    // The second argument separates the advisory locks of environments (0), servers (1) and project ids (2).
    query!("select pg_advisory_xact_lock(hashtextextended($1, 2))", project.project_id.to_string())
        .fetch_one(tx.conn())
        .await?;
    Ok(())
}

/// Stores a pending registration, unless the project has one in any state.
pub(crate) async fn insert_pending(tx: &mut Tx, project: ProjectRef) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into project_registration (org_id, project_id, state, updated_at)
         values ($1, $2, 'pending', $3) on conflict do nothing",
        project.org_id.0,
        project.project_id.0,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stores the state of a registration. `false`: it already has this state.
pub(crate) async fn set_state(
    tx: &mut Tx,
    project: ProjectRef,
    state: RegistrationState,
) -> Result<bool> {
    let now = tx.now;
    let stored = query!(
        "insert into project_registration as old (org_id, project_id, state, updated_at)
         values ($1, $2, $3, $4)
         on conflict (project_id) do update set state = excluded.state, updated_at = excluded.updated_at
         where old.state <> excluded.state",
        project.org_id.0,
        project.project_id.0,
        state as _,
        now
    );
    Ok(stored.execute(tx.conn()).await?.rows_affected() == 1)
}

/// True if the registration of a project was abandoned.
pub(crate) async fn is_abandoned(tx: &mut Tx, project: ProjectRef) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (select from project_registration
                          where org_id = $1 and project_id = $2 and state = 'abandoned') as "found!""#,
        project.org_id.0,
        project.project_id.0
    );
    Ok(found.fetch_one(tx.conn()).await?)
}

/// Deletes a pending registration, because the project exists.
pub(crate) async fn delete_pending(tx: &mut Tx, project: ProjectRef) -> Result<()> {
    query!(
        "delete from project_registration
         where org_id = $1 and project_id = $2 and state = 'pending'",
        project.org_id.0,
        project.project_id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns the projects of registrations that have been pending since before a time, oldest first, a limited
/// number at once.
pub(crate) async fn expired(tx: &mut Tx, before: OffsetDateTime) -> Result<Vec<ProjectRef>> {
    // Registrations of all organizations (no org_id).
    let expired = query_as!(
        ProjectRef,
        "select org_id, project_id from project_registration
         where state = 'pending' and updated_at < $1 order by updated_at limit $2",
        before,
        EXPIRED_MAX
    );
    Ok(expired.fetch_all(tx.conn()).await?)
}

/// Deletes ended registrations whose state was stored before a time, a limited number at once. Returns how
/// many.
pub(crate) async fn delete_ended(tx: &mut Tx, before: OffsetDateTime) -> Result<u64> {
    // Registrations of all organizations (no org_id).
    let deleted = query!(
        "delete from project_registration where project_id in (
             select project_id from project_registration where updated_at < $1 and state <> 'pending'
             order by updated_at limit $2)",
        before,
        retention::BATCH
    );
    Ok(deleted.execute(tx.conn()).await?.rows_affected())
}
