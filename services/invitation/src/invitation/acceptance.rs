//! Acceptance of invitations. An acceptance spans two services, and no transaction is open while the other
//! one is called:
//!
//! 1. reserve: a reservation takes one of the uses, so that concurrent acceptances never exceed `max_uses`;
//! 2. admit: the identity service makes the account a member; repeating that changes nothing;
//! 3. count: the reservation becomes an acceptance, with the event `InvitationAccepted`.
//!
//! A crash between the steps heals: the reaction to `MemberJoined` counts the use, and the cleanup releases
//! reservations whose account did not become a member.

pub(crate) mod cleanup;
pub(crate) mod commands;
pub(crate) mod store;

use chassis::{Error, Result, Tx, UserId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{Invitation, InvitationId, refused::Refused};

/// A use of an invitation that was counted.
pub(crate) struct Acceptance {
    pub(crate) user_id: UserId,
    pub(crate) accepted_at: OffsetDateTime,
    /// The attempt whose call succeeds; none for acceptances of former versions.
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

/// Counts the use of a reservation. Succeeds for the attempt by which the use is counted, also if the
/// reaction was faster; refuses other attempts of the same account.
async fn confirm(tx: &mut Tx, reservation: Reservation) -> Result<()> {
    let Reservation { invitation_id, user_id, attempt_id } = reservation;
    // Deleted only with its organization, which ends the membership, too.
    let found = super::store::lock_by_link(tx, invitation_id.0).await?;
    let Some(invitation) = found else { return Ok(()) };
    match store::find(tx, invitation_id, user_id).await? {
        None => store::count_use(tx, invitation, user_id, Some(attempt_id)).await,
        Some(acceptance) if acceptance.attempt_id == Some(attempt_id) => Ok(()),
        Some(_) => Err(Refused::AlreadyAccepted.into()),
    }
}

/// Time for which the reaction to `MemberJoined` leaves an attempt to its call, whose event names the person
/// and the origin. Shorter than the retries of a reaction.
const CALL_TIMEOUT: Duration = Duration::seconds(10);

/// Counts the use of an account that became a member, unless it was counted: the call that accepted has ended
/// without doing so. The newest attempt of the account succeeds. Fails while the call may still be running;
/// the event is then delivered again.
pub(super) async fn count_admitted(
    tx: &mut Tx,
    invitation: Invitation,
    user_id: UserId,
) -> Result<()> {
    if store::find(tx, invitation.id, user_id).await?.is_some() {
        return Ok(());
    }
    if store::has_attempt_since(tx, invitation.id, user_id, tx.now - CALL_TIMEOUT).await? {
        return Err(Error::conflict("the call that accepts the invitation is still running"));
    }
    let attempt_id = store::newest_attempt(tx, invitation.id, user_id).await?;
    store::count_use(tx, invitation, user_id, attempt_id).await
}
