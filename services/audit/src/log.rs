//! Appending to the log: each event of the suite becomes exactly one leaf, in the order of its producer.

pub(crate) mod append;
mod order;
pub(crate) mod rpc;
pub(crate) mod store;

use anyhow::Context;
use chassis::{OrgId, Result};
use uuid::Uuid;

use crate::{db_int::from_db_int, tile::Edge};

/// Id of the tree of events without an organization (events of accounts).
pub(crate) const ACCOUNT_TREE: OrgId = OrgId(Uuid::nil());
/// Id of the suite tree, whose leaves are the checkpoints of all other trees.
pub(crate) const SUITE_TREE: OrgId = OrgId(Uuid::max());
/// Name of the suite tree in origins of checkpoints.
pub(crate) const SUITE_TREE_NAME: &str = "suite";

/// A Merkle tree, one per organization.
pub(crate) struct Tree {
    /// Primary key, referenced by the other tables.
    pub(crate) number: i32,
    pub(crate) org_id: OrgId,
    pub(crate) edge: Edge,
}

impl Tree {
    /// Decodes a row of the table `tree`.
    pub(crate) fn from_row(number: i32, org_id: Uuid, size: i64, edge: &[u8]) -> Result<Self> {
        let edge = Edge::decode(from_db_int(size)?, edge).with_context(|| {
            format!("table tree, row {org_id}: the column edge does not fit the column size")
        })?;
        Ok(Self { number, org_id: OrgId(org_id), edge })
    }
}

/// Returns the name of a tree in origins of checkpoints: the id of the organization, or `suite`.
pub(crate) fn tree_name(org_id: Uuid) -> String {
    if org_id == SUITE_TREE.0 { SUITE_TREE_NAME.to_owned() } else { org_id.to_string() }
}

/// Anomalies of an entry, as stored bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryFlags(pub(crate) i16);

impl EntryFlags {
    /// The clocks of the service and of the log differ by more than five seconds.
    pub(crate) const CLOCK_SKEW: Self = Self(1);
    /// Another event of the service had the same sequence number: the service's database was restored.
    pub(crate) const SEQUENCE_REUSED: Self = Self(2);

    /// Returns the flags of both.
    #[must_use]
    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the names of the flags that are set, as the API lists them.
    pub(crate) fn names(self) -> Vec<String> {
        let names = [(Self::CLOCK_SKEW, "CLOCK_SKEW"), (Self::SEQUENCE_REUSED, "SEQUENCE_REUSED")];
        let set = names.into_iter().filter(|(flag, _)| self.0 & flag.0 != 0);
        set.map(|(_, name)| name.to_owned()).collect()
    }
}
