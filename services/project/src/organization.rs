//! Standing of organizations, which identity owns, as its events report it.

pub(crate) mod store;

use api::error::Reason;
use chassis::Refusal;

use crate::task::Kind;

/// Whether anything may start in an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing is known against it.
    Good,
    /// Its subscription is blocked: every change is refused (PL-4).
    Blocked,
    Deleted,
}

/// Nothing starts by itself in this organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the organization's subscription is blocked; nothing is deployed")]
    Blocked,
    #[error("the organization was deleted; nothing is deployed")]
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

impl Standing {
    /// Standing from the columns of the store.
    pub(crate) fn of(deleted: bool, blocked: bool) -> Self {
        match (deleted, blocked) {
            (true, _) => Self::Deleted,
            (false, true) => Self::Blocked,
            (false, false) => Self::Good,
        }
    }

    /// Admits what acts without a person, whose right identity would have checked.
    pub(crate) fn admit(self) -> Result<(), Refused> {
        match self {
            Self::Good => Ok(()),
            Self::Blocked => Err(Refused::Blocked),
            Self::Deleted => Err(Refused::Deleted),
        }
    }

    /// Admits a task that acts without a person: one that ends something, always.
    pub(crate) fn admit_task(self, kind: Kind) -> Result<(), Refused> {
        if kind.is_ending() { Ok(()) } else { self.admit() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PL-4, ID-34.
    #[test]
    fn only_endings_are_admitted_in_an_organization_that_is_blocked_or_deleted() {
        for standing in [Standing::of(true, true), Standing::of(false, true)] {
            for kind in [Kind::Stop, Kind::Pause, Kind::Destroy] {
                assert_eq!(standing.admit_task(kind), Ok(()));
            }
            for kind in [Kind::Deploy, Kind::Start, Kind::Resume, Kind::Provision, Kind::Clone] {
                assert!(standing.admit_task(kind).is_err(), "{kind:?} {standing:?}");
            }
        }
        assert_eq!(Standing::of(false, false).admit_task(Kind::Deploy), Ok(()));
    }
}
