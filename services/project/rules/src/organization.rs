//! Status of organizations, as identity's events report it. Identity owns organizations; this service needs
//! their status for tasks that no person starts.

pub(crate) mod client;
pub(crate) mod store;

use api::error::Reason;
use chassis::Refusal;

use crate::task::Kind;

/// Status of an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Active,
    /// The subscription is blocked: identity refuses every change (PL-4).
    Blocked,
    /// Deleted, and not yet purged.
    Deleted,
}

/// The status of the organization forbids tasks that no person starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the organization's subscription is blocked; nothing is deployed")]
    Blocked,
    #[error("the organization is deleted; nothing is deployed")]
    Deleted,
}

impl Refusal for Refused {
    fn reason(&self) -> Reason {
        match self {
            Self::Blocked => Reason::SubscriptionBlocked,
            Self::Deleted => Reason::InvalidState,
        }
    }
}

impl Status {
    /// Status from the columns of the table.
    pub(crate) fn from_flags(deleted: bool, blocked: bool) -> Self {
        match (deleted, blocked) {
            (true, _) => Self::Deleted,
            (false, true) => Self::Blocked,
            (false, false) => Self::Active,
        }
    }

    /// Refuses work that no person starts. For work that a person starts, identity checks the status together
    /// with the person's permission.
    pub(crate) fn require_active(self) -> Result<(), Refused> {
        match self {
            Self::Active => Ok(()),
            Self::Blocked => Err(Refused::Blocked),
            Self::Deleted => Err(Refused::Deleted),
        }
    }

    /// Refuses a task that no person starts. A task that only stops programs is always allowed.
    pub(crate) fn allow_task(self, kind: Kind) -> Result<(), Refused> {
        if kind.is_shutdown() { Ok(()) } else { self.require_active() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PL-4, ID-34.
    #[test]
    fn a_blocked_or_deleted_organization_allows_only_tasks_that_stop_programs() {
        for status in [Status::from_flags(true, true), Status::from_flags(false, true)] {
            for kind in [Kind::Stop, Kind::Pause, Kind::Destroy] {
                assert_eq!(status.allow_task(kind), Ok(()));
            }
            for kind in [Kind::Deploy, Kind::Start, Kind::Resume, Kind::Provision, Kind::Clone] {
                assert!(status.allow_task(kind).is_err(), "{kind:?} {status:?}");
            }
        }
        assert_eq!(Status::from_flags(false, false).allow_task(Kind::Deploy), Ok(()));
    }
}
