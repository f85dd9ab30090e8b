//! The check of every tree: entries, index terms, tiles, checkpoints, edge and sequence numbers.

use std::{collections::BTreeMap, fmt};

use api::event::Envelope;
use chassis::{Db, Result, Tx};
use prost::Message;
use uuid::Uuid;
use verifier::{
    Pins, VerifyError,
    note::VerifierKey,
    tree::{Hash, leaf_hash},
};

use super::{
    Findings,
    rebuild::{RebuiltTree, SequenceCheck},
    store::{self, StoredEntry, StoredTree},
};
use crate::{
    head_journal::HeadJournal,
    search_index::ActionNames,
    tree::{SUITE_TREE, tree_name},
};

/// Most differences that are listed.
const DIFFERENCES_MAX: usize = 1_000;

/// Hashes of a complete tile.
const TILE_WIDTH: i64 = 16;
/// Length of a hash in bytes.
const HASH_LEN: usize = 32;

/// Checkpoints of a tree (signed notes), by size.
type Checkpoints = BTreeMap<i64, String>;

/// A stored tile of leaf hashes.
struct LeafTile {
    index: i64,
    hashes: Vec<u8>,
}

/// A running check.
pub(crate) struct Fsck {
    db: Db,
    pins: Pins,
    action_names: ActionNames,
    journal: HeadJournal,
    findings: Findings,
    /// The tile that was read last.
    tile: Option<LeafTile>,
}

impl Fsck {
    /// Creates a check that accepts checkpoints signed by one of these verifier keys. `journal` has the
    /// signed tree heads.
    pub(crate) fn new(
        db: Db,
        verifier_keys: &[String],
        journal: HeadJournal,
    ) -> anyhow::Result<Self> {
        let keys = verifier_keys.iter().map(|it| VerifierKey::parse(it));
        let keys = keys.collect::<Result<_, VerifyError>>()?;
        Ok(Self {
            db,
            pins: Pins { keys, org_id: None },
            action_names: ActionNames::load(api::DESCRIPTORS)?,
            journal,
            findings: Findings::default(),
            tile: None,
        })
    }

    /// Checks every tree.
    pub(crate) async fn run(mut self) -> Result<Findings> {
        let org_ids = store::tree_ids(&self.db).await?;
        for org_id in &org_ids {
            let db = self.db.clone();
            // The running suite appends to the tree meanwhile, so all statements read one state.
            let check = async |tx: &mut Tx| {
                store::begin_snapshot(tx).await?;
                self.check_tree(tx, *org_id).await
            };
            db.write_as_system("fsck", check).await?;
        }
        for (org_id, head) in self.journal.clone().heads() {
            if !org_ids.contains(&org_id) {
                let signed = head.size;
                self.report(org_id, format!("the tree is missing; {signed} entries were signed"));
            }
        }
        Ok(self.findings)
    }

    async fn check_tree(&mut self, tx: &mut Tx, org_id: Uuid) -> Result<()> {
        let tree = store::tree(tx, org_id).await?;
        self.findings.trees += 1;
        self.tile = None;
        let rebuilt = if org_id == SUITE_TREE.0 {
            self.check_suite_tree(tx, &tree).await?
        } else {
            self.check_org_tree(tx, &tree).await?
        };
        self.check_edge(tx, &tree, &rebuilt).await
    }

    fn report(&mut self, org_id: Uuid, difference: impl fmt::Display) {
        self.findings.damaged.insert(org_id);
        if self.findings.differences.len() < DIFFERENCES_MAX {
            let tree = if org_id == SUITE_TREE.0 {
                "suite tree".to_owned()
            } else {
                format!("tree {org_id}")
            };
            self.findings.differences.push(format!("{tree}: {difference}"));
        }
    }

    async fn check_org_tree(&mut self, tx: &mut Tx, tree: &StoredTree) -> Result<RebuiltTree> {
        let checkpoints = store::checkpoints(tx, tree.number).await?;
        let mut rebuilt = RebuiltTree::default();
        let mut sequences = SequenceCheck::default();
        let mut next = 0;
        // Only the hashes of purged entries remain.
        while next < tree.purged_before.min(tree.size) {
            let hash = self.stored_leaf_hash(tx, tree, next).await?;
            self.push_leaf(tx, tree, &mut rebuilt, hash, &checkpoints).await?;
            next += 1;
        }
        loop {
            let entries = store::entries(tx, tree.number, next).await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                let missing = next..entry.index;
                self.push_missing(tx, tree, &mut rebuilt, missing, &checkpoints).await?;
                if entry.index < next {
                    self.report(tree.org_id, format!("entry {} exists twice", entry.index));
                    continue;
                }
                next = entry.index + 1;
                if entry.index >= tree.size {
                    let index = entry.index;
                    let difference =
                        format!("entry {index} was added: it is beyond the size of the tree");
                    self.report(tree.org_id, difference);
                    continue;
                }
                let hash = leaf_hash(&entry.leaf);
                if hash != self.stored_leaf_hash(tx, tree, entry.index).await? {
                    let index = entry.index;
                    let difference =
                        format!("entry {index} was changed: its bytes do not match the leaf hash");
                    self.report(tree.org_id, difference);
                }
                self.check_entry(tree, &entry, &mut sequences);
                self.push_leaf(tx, tree, &mut rebuilt, hash, &checkpoints).await?;
                self.findings.entries += 1;
            }
        }
        self.push_missing(tx, tree, &mut rebuilt, next..tree.size, &checkpoints).await?;
        for (source, stored) in store::last_sequences(tx, tree.number).await? {
            if let Some(last) = sequences.last(&source).filter(|it| *it != stored) {
                let difference = format!(
                    "the last event of {source} in the entries is {last}, in the table producer {stored}"
                );
                self.report(tree.org_id, difference);
            }
        }
        Ok(rebuilt)
    }

    /// Reports missing entries. Their stored hashes are used to continue the tree.
    async fn push_missing(
        &mut self,
        tx: &mut Tx,
        tree: &StoredTree,
        rebuilt: &mut RebuiltTree,
        range: std::ops::Range<i64>,
        checkpoints: &Checkpoints,
    ) -> Result<()> {
        for index in range.start..range.end.min(tree.size) {
            self.report(tree.org_id, format!("entry {index} is missing"));
            let hash = self.stored_leaf_hash(tx, tree, index).await?;
            self.push_leaf(tx, tree, rebuilt, hash, checkpoints).await?;
        }
        Ok(())
    }

    /// Appends a leaf. Compares the tiles that it completes, and the checkpoint and journal of the new size.
    async fn push_leaf(
        &mut self,
        tx: &mut Tx,
        tree: &StoredTree,
        rebuilt: &mut RebuiltTree,
        hash: Hash,
        checkpoints: &Checkpoints,
    ) -> Result<()> {
        for tile in rebuilt.push(hash) {
            let stored = store::tile(tx, tree.number, tile.level, tile.index).await?;
            if stored.as_ref() != Some(&tile.hashes) {
                let state = if stored.is_some() { "was changed" } else { "is missing" };
                let difference = format!("tile {} of level {} {state}", tile.index, tile.level);
                self.report(tree.org_id, difference);
            }
        }
        let size = rebuilt.size();
        let note = i64::try_from(size).ok().and_then(|it| checkpoints.get(&it));
        if let Some(note) = note {
            self.check_checkpoint(tree.org_id, note, size, &rebuilt.root());
        }
        let signed = self.journal.head(tree.org_id).filter(|it| it.size == size);
        if signed.is_some_and(|it| it.root != rebuilt.root()) {
            let difference = format!("the first {size} entries differ from those that were signed");
            self.report(tree.org_id, difference);
        }
        Ok(())
    }

    /// Verifies a checkpoint, and compares it with the root of the rebuilt tree.
    fn check_checkpoint(&mut self, org_id: Uuid, note: &str, size: u64, root: &Hash) {
        self.findings.checkpoints += 1;
        let pins = Pins { org_id: Some(tree_name(org_id)), ..self.pins.clone() };
        match verifier::note::open(note, &pins) {
            Err(error) => {
                self.report(org_id, format!("the checkpoint of size {size} is invalid: {error}"));
            }
            Ok(checkpoint) if checkpoint.size != size || checkpoint.root != *root => {
                let difference = format!(
                    "the checkpoint of size {size} does not match the entries: they were changed after \
                     signing"
                );
                self.report(org_id, difference);
            }
            Ok(_) => {}
        }
    }

    /// Compares the content of an entry with its columns and index terms, and checks its sequence number.
    fn check_entry(
        &mut self,
        tree: &StoredTree,
        entry: &StoredEntry,
        sequences: &mut SequenceCheck,
    ) {
        let Ok(envelope) = Envelope::decode(&*entry.leaf) else { return };
        let org_id = Uuid::try_parse(&envelope.org_id).unwrap_or_default();
        let expected = self.action_names.index_terms(&envelope);
        let mut expected_terms: Vec<String> =
            expected.all().map(|it| format!("{}:{}", it.kind as i16, it.value)).collect();
        let mut stored_terms = entry.terms.clone();
        expected_terms.sort();
        stored_terms.sort();
        let matches = Uuid::try_parse(&envelope.id).ok() == Some(entry.event_id)
            && org_id == tree.org_id
            && stored_terms == expected_terms
            && expected.outcome == entry.outcome;
        if !matches {
            let index = entry.index;
            self.report(
                tree.org_id,
                format!("entry {index}: its index terms do not match its leaf"),
            );
        }
        let source = &envelope.source;
        let is_purged = tree.purged_before > 0;
        if let Some(missing) = sequences.push(source, envelope.sequence, is_purged) {
            let index = entry.index;
            let difference =
                format!("entry {index}: event {missing} of {source} is missing before it");
            self.report(tree.org_id, difference);
        }
    }

    /// Checks the suite tree, whose leaves are checkpoints and heartbeats.
    async fn check_suite_tree(&mut self, tx: &mut Tx, tree: &StoredTree) -> Result<RebuiltTree> {
        let mut rebuilt = RebuiltTree::default();
        let no_checkpoints = Checkpoints::default();
        let mut next = 0;
        loop {
            let leaves = store::suite_leaves(tx, next).await?;
            if leaves.is_empty() {
                break;
            }
            for leaf in leaves {
                if leaf.index != next {
                    self.report(tree.org_id, format!("leaf {next} is missing"));
                }
                let hash = leaf_hash(leaf.text.as_bytes());
                self.push_leaf(tx, tree, &mut rebuilt, hash, &no_checkpoints).await?;
                // Only the newest checkpoint of the suite tree is stored.
                if u64::try_from(tree.signed).is_ok_and(|it| it == rebuilt.size()) {
                    let root = rebuilt.root();
                    self.check_checkpoint(tree.org_id, &tree.note, rebuilt.size(), &root);
                }
                next = leaf.index + 1;
            }
        }
        Ok(rebuilt)
    }

    /// Compares the stored size, edge and number of tiles with the rebuilt tree, and its size with the
    /// journal.
    async fn check_edge(
        &mut self,
        tx: &mut Tx,
        tree: &StoredTree,
        rebuilt: &RebuiltTree,
    ) -> Result<()> {
        let size = rebuilt.size();
        if i64::try_from(size).ok() != Some(tree.size) {
            let difference =
                format!("the tree has {size} entries, but its stored size is {}", tree.size);
            self.report(tree.org_id, difference);
        } else if rebuilt.edge() != tree.edge {
            self.report(tree.org_id, "the hashes at the right edge of the tree were changed");
        }
        let complete_tiles: i64 = (1..16).map(|level| tree.size >> (4 * level)).sum();
        if store::tile_count(tx, tree.number).await? != complete_tiles {
            self.report(tree.org_id, "tiles were added or are missing");
        }
        let signed = self.journal.head(tree.org_id).map_or(0, |it| it.size);
        if signed > size {
            let difference =
                format!("the tree has {size} entries, but {signed} were signed: it was truncated");
            self.report(tree.org_id, difference);
        }
        Ok(())
    }

    /// Returns the stored hash of a leaf, from its tile or from the edge; zeros if it is missing.
    async fn stored_leaf_hash(
        &mut self,
        tx: &mut Tx,
        tree: &StoredTree,
        index: i64,
    ) -> Result<Hash> {
        let tile_index = index / TILE_WIDTH;
        let hashes = if tile_index >= tree.size / TILE_WIDTH {
            &tree.edge
        } else {
            // Leaves are read in order, sixteen of each tile.
            if self.tile.as_ref().is_none_or(|it| it.index != tile_index) {
                let hashes = store::tile(tx, tree.number, 0, tile_index).await?.unwrap_or_default();
                self.tile = Some(LeafTile { index: tile_index, hashes });
            }
            self.tile.as_ref().map_or(&tree.edge, |it| &it.hashes)
        };
        let start = usize::try_from(index % TILE_WIDTH).unwrap_or_default() * HASH_LEN;
        let hash = hashes.get(start..start + HASH_LEN).and_then(|it| it.try_into().ok());
        Ok(hash.unwrap_or_default())
    }
}
