//! Every SQL statement about acceptances and reservations.

use chassis::{Db, OrgId, Result, Tx, UserId};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Acceptance, Reservation};
use crate::invitation::{Invitation, InvitationId, store};

/// An attempt of an account to accept an invitation.
pub(crate) struct Attempt {
    pub(crate) id: Uuid,
    pub(crate) reserved_at: OffsetDateTime,
}

/// A reservation that is older than any running call.
pub(crate) struct StaleReservation {
    pub(crate) org_id: OrgId,
    pub(crate) invitation_id: InvitationId,
    pub(crate) user_id: UserId,
    pub(crate) attempt_id: Uuid,
    pub(crate) reserved_at: OffsetDateTime,
}

/// The acceptance of an invitation by an account.
pub(crate) async fn find(
    tx: &mut Tx,
    invitation_id: InvitationId,
    user_id: UserId,
) -> Result<Option<Acceptance>> {
    let acceptance = query_as!(
        Acceptance,
        "select user_id, accepted_at, attempt_id from acceptance
         where invitation_id = $1 and user_id = $2",
        invitation_id.0,
        user_id.0
    );
    Ok(acceptance.fetch_optional(tx.conn()).await?)
}

/// The acceptances of an invitation, oldest first.
pub(crate) async fn list(db: &Db, invitation_id: InvitationId) -> Result<Vec<Acceptance>> {
    let acceptances = query_as!(
        Acceptance,
        "select user_id, accepted_at, attempt_id from acceptance
         where invitation_id = $1 order by accepted_at",
        invitation_id.0
    );
    Ok(acceptances.fetch_all(db.pool()).await?)
}

/// Counts the other accounts that hold a use of an invitation. The invitation must be locked.
pub(crate) async fn count_others(
    tx: &mut Tx,
    invitation_id: InvitationId,
    user_id: UserId,
) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(distinct user_id) as "count!" from reservation
           where invitation_id = $1 and user_id <> $2"#,
        invitation_id.0,
        user_id.0
    );
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Stores a reservation. A repeated attempt replaces the time of its own reservation.
pub(crate) async fn reserve(tx: &mut Tx, reservation: Reservation) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into reservation (invitation_id, user_id, attempt_id, reserved_at) values ($1, $2, $3, $4)
         on conflict (invitation_id, user_id, attempt_id) do update set reserved_at = $4",
        reservation.invitation_id.0,
        reservation.user_id.0,
        reservation.attempt_id,
        now,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Deletes a reservation, and wakes the acceptances that wait for a use.
pub(crate) async fn release(tx: &mut Tx, reservation: Reservation) -> Result<()> {
    query!(
        "delete from reservation where invitation_id = $1 and user_id = $2 and attempt_id = $3",
        reservation.invitation_id.0,
        reservation.user_id.0,
        reservation.attempt_id,
    )
    .execute(tx.conn())
    .await?;
    tx.wake();
    Ok(())
}

/// The newest attempt of an account to accept an invitation.
pub(crate) async fn newest_attempt(
    tx: &mut Tx,
    invitation_id: InvitationId,
    user_id: UserId,
) -> Result<Option<Attempt>> {
    let attempt = query_as!(
        Attempt,
        "select attempt_id as id, reserved_at from reservation where invitation_id = $1 and user_id = $2
         order by reserved_at desc limit 1",
        invitation_id.0,
        user_id.0
    );
    Ok(attempt.fetch_optional(tx.conn()).await?)
}

/// Replaces the reservations of an account with an acceptance, and stores its event; after the last use also
/// the event of the expiry. The invitation must be locked. Without uses left it is not changed: the
/// reservation was released before its account became a member.
pub(crate) async fn count_use(
    tx: &mut Tx,
    invitation: Invitation,
    user_id: UserId,
    attempt_id: Option<Uuid>,
) -> Result<()> {
    query!(
        "delete from reservation where invitation_id = $1 and user_id = $2",
        invitation.id as _,
        user_id.0
    )
    .execute(tx.conn())
    .await?;
    if invitation.use_count >= invitation.max_uses {
        return Ok(());
    }
    let now = tx.now;
    query!(
        "insert into acceptance (invitation_id, user_id, accepted_at, attempt_id) values ($1, $2, $3, $4)",
        invitation.id as _,
        user_id.0,
        now,
        attempt_id,
    )
    .execute(tx.conn())
    .await?;
    let invitation = store::update(tx, invitation.accept(now)).await?;
    if invitation.expiry_event_at == Some(now) {
        tx.emit(invitation.expired(now));
    }
    Ok(())
}

/// Reservations from before a time, oldest first.
pub(crate) async fn stale(
    db: &Db,
    before: OffsetDateTime,
    limit: i64,
) -> Result<Vec<StaleReservation>> {
    // Of every organization (no org_id): the cleanup works for all.
    let rows = query_as!(
        StaleReservation,
        r#"select invitation.org_id, reservation.invitation_id as "invitation_id: InvitationId",
                  reservation.user_id, reservation.attempt_id, reservation.reserved_at
           from reservation join invitation on invitation.id = reservation.invitation_id
           where reservation.reserved_at < $1 order by reservation.reserved_at limit $2"#,
        before,
        limit
    );
    Ok(rows.fetch_all(db.pool()).await?)
}
