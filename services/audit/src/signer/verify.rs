//! Comparison of stored trees with signed heads, leaf by leaf.

use chassis::{Db, Result};

use super::store;
use crate::{
    damage::Damage,
    head_journal::TreeHead,
    integrity::check_size,
    merkle::{Hash, Node, Subtrees, complete_subtrees},
    tree::{self, Tree, store::LeafRange},
};

/// Leaves that are read at a time.
const BATCH: u64 = 1_000;

/// Checks that a tree continues the head in the journal, and has the other heads, which are ordered by size.
/// Returns the root of the whole tree. Without a head in the journal, all leaves are read; otherwise those
/// after it. Fails with [`Damage`].
pub(super) async fn verify(
    db: &Db,
    tree: &Tree,
    journaled: Option<TreeHead>,
    heads: &[TreeHead],
) -> Result<Hash> {
    let size = tree.edge.size();
    check_size(journaled, size)?;
    check_size(heads.last().copied(), size)?;
    let start = journaled.map_or(0, |it| it.size);
    let mut leaves = subtrees_at(db, tree, start).await?;
    require_root(&leaves, journaled)?;
    let older_count = heads.partition_point(|it| it.size <= start);
    let (older, newer) = heads.split_at(older_count);
    for head in older {
        require_root(&subtrees_at(db, tree, head.size).await?, Some(*head))?;
    }
    let mut newer = newer.iter().copied().peekable();
    while leaves.size() < size {
        let first = leaves.size();
        let range = LeafRange { first, end: size.min(first + BATCH) };
        for hash in leaf_hashes(db, tree, range).await? {
            leaves.push(hash);
            while let Some(head) = newer.next_if(|it| it.size == leaves.size()) {
                require_root(&leaves, Some(head))?;
            }
        }
    }
    match leaves.root() {
        Some(root) if tree.edge.root() == Some(root) => Ok(root),
        _ => Err(Damage::ChangedEdge.into()),
    }
}

/// Fails unless the leaves have the root of a signed head.
fn require_root(leaves: &Subtrees, signed: Option<TreeHead>) -> Result<(), Damage> {
    match signed {
        Some(signed) if leaves.root() != Some(signed.root) => {
            Err(Damage::Rewritten { signed: signed.size })
        }
        _ => Ok(()),
    }
}

/// Returns the complete subtrees of the first `size` leaves, from the stored hashes.
async fn subtrees_at(db: &Db, tree: &Tree, size: u64) -> Result<Subtrees> {
    let nodes = complete_subtrees(0, size);
    Ok(Subtrees::new(size, tree::store::node_hashes(db, tree, &nodes).await?))
}

/// Returns the hashes of leaves: of purged entries as stored, of all others computed from the entries.
async fn leaf_hashes(db: &Db, tree: &Tree, range: LeafRange) -> Result<Vec<Hash>> {
    let leaves = store::leaves(db, tree, range).await?;
    let first_entry = leaves.first().map_or(range.end, |it| it.index);
    let mut hashes = vec![];
    if range.first < first_entry {
        // Entries are purged in order, so only the first ones can be missing.
        if store::purged_before(db, tree).await? < first_entry {
            return Err(Damage::MissingEntry { index: range.first }.into());
        }
        let level = 0;
        let nodes: Vec<_> = (range.first..first_entry).map(|index| Node { level, index }).collect();
        hashes = tree::store::node_hashes(db, tree, &nodes).await?;
    }
    for (expected, leaf) in (first_entry..).zip(&leaves) {
        if leaf.index != expected {
            return Err(Damage::MissingEntry { index: expected }.into());
        }
        hashes.push(leaf.hash);
    }
    let end = range.first + u64::try_from(hashes.len()).unwrap_or_default();
    if end < range.end {
        return Err(Damage::MissingEntry { index: end }.into());
    }
    Ok(hashes)
}
