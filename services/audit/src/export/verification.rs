//! Verification of the entries of an export before they are sent: a damaged entry ends the export, instead of
//! being shown as a part of the log.

use std::ops::Range;

use chassis::{Db, Result};
use verifier::tree::RootBuilder;

use crate::{
    damage::Damage,
    db_int::from_db_int,
    entry::{self, EntryRow},
    merkle::{Hash, Node, leaf_hash},
    note,
    proof::store::SignedTree,
    tree,
};

/// State of the verification of one export.
pub(crate) struct LeafVerification {
    /// Tree of all leaves so far; `None` for a resumed export, whose first leaves are not read.
    leaves: Option<RootBuilder>,
}

impl LeafVerification {
    /// Starts the verification of an export.
    pub(crate) fn new(is_resumed: bool) -> Self {
        Self { leaves: (!is_resumed).then(RootBuilder::default) }
    }

    /// Returns the stored hashes of leaves.
    pub(crate) async fn leaf_hashes(
        &self,
        db: &Db,
        signed: &SignedTree,
        indexes: &[i64],
    ) -> Result<Vec<Hash>> {
        let leaf = |index: &i64| Ok(Node { level: 0, index: from_db_int(*index)? });
        let leaves = indexes.iter().map(leaf).collect::<Result<Vec<_>>>()?;
        tree::store::node_hashes(db, &signed.tree, &leaves).await
    }

    /// Compares entries with their leaf hashes in the tree.
    pub(crate) async fn check(
        &mut self,
        db: &Db,
        signed: &SignedTree,
        rows: &[EntryRow],
    ) -> Result<()> {
        let indexes: Vec<i64> = rows.iter().map(|it| it.index).collect();
        let stored = self.leaf_hashes(db, signed, &indexes).await?;
        for (row, stored) in rows.iter().zip(&stored) {
            if leaf_hash(&row.leaf) != *stored {
                return Err(Damage::ChangedEntry { index: from_db_int(row.index)? }.into());
            }
            self.push(stored);
        }
        Ok(())
    }

    /// Fails if an entry of the range is missing. An entry that was purged meanwhile is not missing.
    pub(crate) async fn require_all(
        &self,
        db: &Db,
        signed: &SignedTree,
        range: Range<i64>,
        rows: &[EntryRow],
    ) -> Result<()> {
        let Some(index) = first_missing(range, rows) else { return Ok(()) };
        if index < entry::store::purged_before(db, signed.tree.number).await? {
            return Ok(());
        }
        Err(Damage::MissingEntry { index: from_db_int(index)? }.into())
    }

    /// Adds the hash of the next leaf of a complete bundle.
    pub(crate) fn push(&mut self, hash: &Hash) {
        if let Some(leaves) = &mut self.leaves {
            leaves.push(*hash);
        }
    }

    /// Compares the root of all leaves of a complete bundle with the signed one.
    pub(crate) fn finish(&self, signed: &SignedTree) -> Result<()> {
        let head = note::unverified_head(&signed.note).ok_or(Damage::InvalidCheckpoint)?;
        match &self.leaves {
            Some(leaves) if leaves.size() == head.size && leaves.root() != head.root => {
                Err(Damage::Rewritten { signed: head.size }.into())
            }
            _ => Ok(()),
        }
    }
}

/// Returns the first index of a range that no row has. The rows are ordered by index.
fn first_missing(range: Range<i64>, rows: &[EntryRow]) -> Option<i64> {
    let mut present = rows.iter().map(|it| it.index).peekable();
    range.into_iter().find(|index| present.next_if_eq(index).is_none())
}
