//! States of invitations, and reasons for revoking them.

use api::invitation::RevokeCause;
use time::OffsetDateTime;

use super::{Invitation, refused::Refused};

/// State of an invitation (3.2). Computed from the clock and the counters, not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Can be accepted, declined, resent and revoked.
    Pending,
    /// Its lifetime is over.
    Expired,
    /// It was used `max_uses` times.
    Exhausted,
    /// A manager, the recipient or the suite ended it.
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

    /// Refuses an answer of an invited person unless the invitation is pending (IN-13).
    pub(crate) fn check_pending(&self, now: OffsetDateTime) -> Result<(), Refused> {
        match self.state(now) {
            State::Pending => Ok(()),
            State::Expired => Err(Refused::Expired),
            State::Exhausted => Err(Refused::Exhausted),
            State::Revoked => Err(Refused::Revoked(self.revoke_cause.0)),
        }
    }

    /// Refuses a change by a manager unless the invitation is pending.
    pub(super) fn check_changeable(&self, now: OffsetDateTime) -> Result<(), Refused> {
        match self.state(now) {
            State::Pending => Ok(()),
            ended => Err(Refused::NotPending(ended)),
        }
    }
}

/// Description of a cause in events.
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
    }
}
