//! Acceptance of invitations. An acceptance spans two services, and no transaction is open while the other
//! one is called:
//!
//! 1. reserve: a reservation takes one of the uses, so that concurrent acceptances never exceed `max_uses`;
//! 2. admit: the identity service makes the account a member; repeating that changes nothing;
//! 3. count: the reservation becomes an acceptance, with the event `InvitationAccepted`.
//!
//! A crash between the steps is repaired: the reaction to `MemberJoined` counts the use, and the cleanup
//! releases reservations whose account did not become a member.

pub(crate) mod cleanup;
pub(crate) mod commands;
pub(crate) mod store;

use chassis::{Result, Tx, UserId};
use host::NotReady;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{Invitation, InvitationId, refused::Refused};

/// A use of an invitation that was counted.
pub(crate) struct Acceptance {
    pub(crate) user_id: UserId,
    pub(crate) accepted_at: OffsetDateTime,
    /// The attempt that counted the use; none for acceptances of former versions.
    pub(crate) attempt_id: Option<Uuid>,
}

/// A use of an invitation that one attempt holds. All reservations of one account hold the same use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reservation {
    pub(crate) invitation_id: InvitationId,
    pub(crate) user_id: UserId,
    /// The `request_id` of the call, so that its repetition is the same attempt; else a new id.
    pub(crate) attempt_id: Uuid,
}

/// Counts the use of a reservation, unless the reaction to `MemberJoined` has counted it for this attempt.
/// Refuses if another attempt of the same account was counted.
async fn confirm(tx: &mut Tx, reservation: Reservation) -> Result<()> {
    let Reservation { invitation_id, user_id, attempt_id } = reservation;
    // An invitation is deleted only after its organization, whose deletion ends the membership as well.
    let found = super::store::lock_by_link(tx, invitation_id.0).await?;
    let Some(invitation) = found else { return Ok(()) };
    match store::find(tx, invitation_id, user_id).await? {
        None => store::count_use(tx, invitation, user_id, Some(attempt_id)).await,
        Some(acceptance) if acceptance.attempt_id == Some(attempt_id) => Ok(()),
        Some(_) => Err(Refused::AlreadyAccepted.into()),
    }
}

/// Time after a reservation in which the reaction to `MemberJoined` waits for the call to count the use: only
/// the event of the call has the account as its actor, and the network address of the call.
const CALL_TIMEOUT: Duration = Duration::seconds(10);

/// Counts the use of an account that became a member, unless the call that accepted has counted it. The use
/// is that of the account's newest attempt. Fails with [`NotReady`] while the call may be running.
pub(super) async fn count_admitted(
    tx: &mut Tx,
    invitation: Invitation,
    user_id: UserId,
) -> Result<()> {
    if store::find(tx, invitation.id, user_id).await?.is_some() {
        return Ok(());
    }
    let attempt = store::newest_attempt(tx, invitation.id, user_id).await?;
    if attempt.as_ref().is_some_and(|it| it.reserved_at > tx.now - CALL_TIMEOUT) {
        return Err(NotReady("the call that accepts the invitation may be running").into());
    }
    store::count_use(tx, invitation, user_id, attempt.map(|it| it.id)).await
}
