//! Trees of the log: one per organization, one for events of accounts, and the suite tree.

pub(crate) mod store;

use chassis::OrgId;
use uuid::Uuid;

use crate::{damage::Damage, tile::Edge};

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
    pub(crate) fn from_row(
        number: i32,
        org_id: Uuid,
        size: i64,
        edge: &[u8],
    ) -> Result<Self, Damage> {
        let edge = u64::try_from(size).ok().and_then(|it| Edge::decode(it, edge));
        let edge = edge.ok_or(Damage::MalformedEdge)?;
        Ok(Self { number, org_id: OrgId(org_id), edge })
    }
}

/// Returns the name of a tree in origins of checkpoints: the id of the organization, or `suite`.
pub(crate) fn tree_name(org_id: Uuid) -> String {
    if org_id == SUITE_TREE.0 { SUITE_TREE_NAME.to_owned() } else { org_id.to_string() }
}
