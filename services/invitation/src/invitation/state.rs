//! States of invitations, and reasons for revoking them.

use api::invitation::RevokeCause;
use time::OffsetDateTime;

use super::Invitation;

/// State of an invitation, computed from the clock and the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Can be accepted, declined, resent and revoked.
    Pending,
    /// The lifetime is over.
    Expired,
    /// The invitation was used `max_uses` times.
    Exhausted,
    /// A manager, the recipient or the suite ended the invitation.
    Revoked,
}

impl State {
    /// Name in messages and in the metadata of errors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Expired => "EXPIRED",
            Self::Exhausted => "EXHAUSTED",
            Self::Revoked => "REVOKED",
        }
    }
}

impl Invitation {
    /// State at a time.
    pub(crate) fn state(&self, now: OffsetDateTime) -> State {
        match () {
            () if self.revoked_at.is_some() => State::Revoked,
            () if self.use_count >= self.max_uses => State::Exhausted,
            () if self.expires_at <= now => State::Expired,
            () => State::Pending,
        }
    }
}

/// Description of a cause in the event of the revocation.
pub(super) fn describe(cause: RevokeCause) -> &'static str {
    match cause {
        RevokeCause::Unspecified => "not revoked",
        RevokeCause::Manager => "revoked by a manager",
        RevokeCause::Declined => "declined by the invited person",
        RevokeCause::InviterDemoted => "the inviter lost the permission to invite",
        RevokeCause::InviterGone => "the inviter is no longer a member",
        RevokeCause::OrganizationDeleted => "the organization was deleted",
        RevokeCause::SubscriptionBlocked => "the subscription was blocked",
        RevokeCause::RecipientGone => "the invited person deleted their account",
        RevokeCause::RecipientJoined => "the invited person joined by another invitation",
        RevokeCause::RecipientLeft => "the invited person left, or was removed",
    }
}
