//! Growing the log: each event of the suite becomes one leaf, once, in the order of its producer.

pub(crate) mod admit;
pub(crate) mod ingest;
pub(crate) mod rpc;
pub(crate) mod store;

use chassis::OrgId;
use uuid::Uuid;

use crate::tile::Edge;

/// The tree of events without an organization.
pub(crate) const ACCOUNTS: OrgId = OrgId(Uuid::nil());
/// The suite's own tree, whose leaves are checkpoints.
pub(crate) const SUITE: OrgId = OrgId(Uuid::max());

/// A tree.
pub(crate) struct Tree {
    /// Its short name in the other tables.
    pub(crate) number: i32,
    pub(crate) org_id: OrgId,
    pub(crate) edge: Edge,
}

/// What is odd about an entry. The bits are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(pub(crate) i16);

impl Flags {
    /// The clocks of the service and of the log differ by more than five seconds.
    pub(crate) const CLOCK_SKEW: Self = Self(1);
    /// Its number was that of another event of its service before: the service's database went back.
    pub(crate) const SEQUENCE_REUSED: Self = Self(2);

    /// Both.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// As words.
    pub(crate) fn words(self) -> Vec<String> {
        let named = [(Self::CLOCK_SKEW, "CLOCK_SKEW"), (Self::SEQUENCE_REUSED, "SEQUENCE_REUSED")];
        let set = named.into_iter().filter(|it| self.0 & it.0.0 != 0);
        set.map(|it| it.1.to_owned()).collect()
    }
}
