//! Status of organizations, as identity's events report it. Identity owns organizations; this service needs
//! their status for tasks that no person starts.

use api::error::Reason;
use chassis::Refusal;

use crate::task::Kind;

/// Status of an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Active,
    /// The subscription is blocked: identity refuses every change (PL-4).
    Blocked,
    /// Deleted, and not yet purged.
    Deleted,
}

/// The status of the organization forbids tasks that no person starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
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
    pub fn from_flags(deleted: bool, blocked: bool) -> Self {
        match (deleted, blocked) {
            (true, _) => Self::Deleted,
            (false, true) => Self::Blocked,
            (false, false) => Self::Active,
        }
    }

    /// Refuses work that no person starts. For work that a person starts, identity checks the status together
    /// with the person's permission.
    pub fn require_active(self) -> Result<(), Refused> {
        match self {
            Self::Active => Ok(()),
            Self::Blocked => Err(Refused::Blocked),
            Self::Deleted => Err(Refused::Deleted),
        }
    }

    /// Refuses a task that no person starts. A task that only stops programs is always allowed.
    pub fn require_task_allowed(self, kind: Kind) -> Result<(), Refused> {
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
                assert_eq!(status.require_task_allowed(kind), Ok(()));
            }
            for kind in [Kind::Deploy, Kind::Start, Kind::Resume, Kind::Provision, Kind::Clone] {
                assert!(status.require_task_allowed(kind).is_err(), "{kind:?} {status:?}");
            }
        }
        assert_eq!(Status::from_flags(false, false).require_task_allowed(Kind::Deploy), Ok(()));
    }
}
