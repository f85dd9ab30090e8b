//! The check of every tree: entries, index terms, tiles, checkpoints, edge and sequence numbers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use chassis::{Db, Result, Tx};
use uuid::Uuid;
use verifier::{
    Pins, VerifyError,
    note::VerifierKey,
    tree::{Hash, leaf_hash},
};

use super::{
    Findings,
    decoded_entry::DecodedEntry,
    rebuild::{RebuiltTree, SequenceCheck},
    store::{self, StoredEntry, StoredTree, Terms},
    tile_window::{TilePosition, TileWindow},
};
use crate::{
    head_journal::HeadJournal,
    search_index::ActionNames,
    tree::{SUITE_TREE, tree_name},
};

/// Most differences that are listed.
const DIFFERENCES_MAX: usize = 1_000;

/// Checkpoints of a tree (signed notes), by size.
type Checkpoints = BTreeMap<i64, String>;

/// Position of the check in one tree.
#[derive(Default)]
struct Cursor {
    /// Index of the next entry.
    next: i64,
    rebuilt: RebuiltTree,
    sequences: SequenceCheck,
}

/// A running check. It proceeds in slices of at most [`store::PAGE`] entries, each in a transaction of its
/// own: a long transaction would keep the server from removing dead rows. Between two slices the tree may
/// grow, and its first entries may be purged.
pub(crate) struct Fsck {
    db: Db,
    pins: Pins,
    action_names: ActionNames,
    journal: HeadJournal,
    findings: Findings,
    /// Trees that are not checked yet, by organization; the first one is being checked.
    org_ids: VecDeque<Uuid>,
    cursor: Cursor,
    tiles: TileWindow,
}

impl Fsck {
    /// Starts a check that accepts checkpoints signed by one of these verifier keys. `journal` has the
    /// signed tree heads.
    pub(crate) async fn start(
        db: &Db,
        verifier_keys: &[String],
        journal: HeadJournal,
    ) -> anyhow::Result<Self> {
        let keys = verifier_keys.iter().map(|it| VerifierKey::parse(it));
        let keys = keys.collect::<Result<_, VerifyError>>()?;
        let mut check = Self {
            db: db.clone(),
            pins: Pins { keys, ..Pins::default() },
            action_names: ActionNames::load(api::DESCRIPTORS)?,
            journal,
            findings: Findings::default(),
            org_ids: store::tree_ids(db).await?.into(),
            cursor: Cursor::default(),
            tiles: TileWindow::default(),
        };
        for (org_id, head) in check.journal.clone().heads() {
            if !check.org_ids.contains(&org_id) {
                let signed = head.size;
                check.report(org_id, format!("the tree is missing; {signed} entries were signed"));
            }
        }
        Ok(check)
    }

    /// Checks the next slice. Returns false after the last one.
    pub(crate) async fn next_slice(&mut self) -> Result<bool> {
        let Some(org_id) = self.org_ids.front().copied() else { return Ok(false) };
        let mut cursor = std::mem::take(&mut self.cursor);
        let db = self.db.clone();
        // The running suite appends to the tree meanwhile, so all statements read one state.
        let check = async |tx: &mut Tx| {
            store::begin_snapshot(tx).await?;
            let tree = store::tree(tx, org_id).await?;
            self.tiles = TileWindow::default();
            let is_complete = if org_id == SUITE_TREE.0 {
                self.check_suite_slice(tx, &tree, &mut cursor).await?
            } else {
                self.check_org_slice(tx, &tree, &mut cursor).await?
            };
            if is_complete {
                self.check_edge(tx, &tree, &cursor.rebuilt).await?;
            }
            Ok(is_complete)
        };
        if db.write_as_system("fsck", check).await? {
            self.findings.trees += 1;
            self.org_ids.pop_front();
        } else {
            self.cursor = cursor;
        }
        Ok(!self.org_ids.is_empty())
    }

    /// Returns the findings.
    pub(crate) fn finish(self) -> Findings {
        self.findings
    }

    fn report(&mut self, org_id: Uuid, difference: impl fmt::Display) {
        let difference = difference.to_string();
        let tree =
            if org_id == SUITE_TREE.0 { "suite tree".to_owned() } else { format!("tree {org_id}") };
        if self.findings.differences.len() < DIFFERENCES_MAX {
            self.findings.differences.push(format!("{tree}: {difference}"));
        }
        self.findings.damaged.entry(org_id).or_insert(difference);
    }

    /// Checks the next entries of the log of an organization. Returns true after the last one.
    async fn check_org_slice(
        &mut self,
        tx: &mut Tx,
        tree: &StoredTree,
        cursor: &mut Cursor,
    ) -> Result<bool> {
        if cursor.next < tree.purged_before.min(tree.size) {
            self.skip_purged(tx, tree, cursor).await?;
            return Ok(false);
        }
        let mut entries = vec![];
        let mut terms = BTreeSet::new();
        let decode = |entry: StoredEntry| {
            terms.extend(entry.terms.all());
            entries.push(DecodedEntry::of(entry));
        };
        store::for_each_entry(tx, tree.number, cursor.next, decode).await?;
        let end = entries.last().map_or(tree.size, |it| it.index + 1);
        let checkpoints = store::checkpoints(tx, tree.number, cursor.next + 1..=end).await?;
        let terms = store::terms(tx, tree.number, &terms).await?;
        let is_complete = entries.is_empty();
        for entry in entries {
            let missing = cursor.next..entry.index;
            self.push_missing(tx, tree, &mut cursor.rebuilt, missing, &checkpoints).await?;
            if entry.index < cursor.next {
                self.report(tree.org_id, format!("entry {} exists twice", entry.index));
                continue;
            }
            cursor.next = entry.index + 1;
            if entry.index >= tree.size {
                let index = entry.index;
                let difference =
                    format!("entry {index} was added: it is beyond the size of the tree");
                self.report(tree.org_id, difference);
                continue;
            }
            let hash = entry.hash;
            if hash != self.tiles.leaf_hash(tx, tree, entry.index).await? {
                let index = entry.index;
                let difference =
                    format!("entry {index} was changed: its bytes do not match the leaf hash");
                self.report(tree.org_id, difference);
            }
            self.check_entry(tree, &entry, &terms, &mut cursor.sequences);
            self.push_leaf(tx, tree, &mut cursor.rebuilt, hash, &checkpoints).await?;
            self.findings.entries += 1;
        }
        if is_complete {
            let missing = cursor.next..tree.size;
            self.push_missing(tx, tree, &mut cursor.rebuilt, missing, &checkpoints).await?;
            self.check_sequences(tx, tree, &cursor.sequences).await?;
        }
        Ok(is_complete)
    }

    /// Appends the hashes of the next purged entries, which are all that remains of them.
    async fn skip_purged(
        &mut self,
        tx: &mut Tx,
        tree: &StoredTree,
        cursor: &mut Cursor,
    ) -> Result<()> {
        let end = tree.purged_before.min(tree.size).min(cursor.next + store::PAGE);
        let checkpoints = store::checkpoints(tx, tree.number, cursor.next + 1..=end).await?;
        while cursor.next < end {
            let hash = self.tiles.leaf_hash(tx, tree, cursor.next).await?;
            self.push_leaf(tx, tree, &mut cursor.rebuilt, hash, &checkpoints).await?;
            cursor.next += 1;
        }
        // The sequence numbers of purged entries are unknown, also of those that were purged since the last
        // slice.
        cursor.sequences = SequenceCheck::default();
        Ok(())
    }

    /// Compares the last sequence number of each service with the table `producer`.
    async fn check_sequences(
        &mut self,
        tx: &mut Tx,
        tree: &StoredTree,
        sequences: &SequenceCheck,
    ) -> Result<()> {
        for (source, stored) in store::last_sequences(tx, tree.number).await? {
            if let Some(last) = sequences.last(&source).filter(|it| *it != stored) {
                let difference = format!(
                    "the last event of {source} in the entries is {last}, in the table producer {stored}"
                );
                self.report(tree.org_id, difference);
            }
        }
        Ok(())
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
            let hash = self.tiles.leaf_hash(tx, tree, index).await?;
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
            let position = TilePosition { level: tile.level, index: tile.index };
            let stored = self.tiles.tile(tx, tree, position).await?;
            if stored != Some(&*tile.hashes) {
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
        entry: &DecodedEntry,
        terms: &Terms,
        sequences: &mut SequenceCheck,
    ) {
        let Some(envelope) = &entry.envelope else { return };
        let index = entry.index;
        let org_id = Uuid::try_parse(&envelope.org_id).unwrap_or_default();
        let matches = Uuid::try_parse(&envelope.id).ok() == Some(entry.event_id)
            && org_id == tree.org_id
            && entry.has_terms_of(self.action_names.action_of(envelope), envelope, terms)
            && i16::try_from(envelope.outcome).unwrap_or_default() == entry.outcome;
        if !matches {
            self.report(
                tree.org_id,
                format!("entry {index}: its index terms do not match its leaf"),
            );
        }
        let source = &envelope.source;
        let is_purged = tree.purged_before > 0;
        if let Some(missing) = sequences.push(source, envelope.sequence, is_purged) {
            let difference =
                format!("entry {index}: event {missing} of {source} is missing before it");
            self.report(tree.org_id, difference);
        }
    }

    /// Checks the next leaves of the suite tree: checkpoints and heartbeats. Returns true after the last one.
    async fn check_suite_slice(
        &mut self,
        tx: &mut Tx,
        tree: &StoredTree,
        cursor: &mut Cursor,
    ) -> Result<bool> {
        let leaves = store::suite_leaves(tx, cursor.next).await?;
        let is_complete = leaves.is_empty();
        for leaf in leaves {
            if leaf.index != cursor.next {
                self.report(tree.org_id, format!("leaf {} is missing", cursor.next));
            }
            let hash = leaf_hash(leaf.text.as_bytes());
            let rebuilt = &mut cursor.rebuilt;
            self.push_leaf(tx, tree, rebuilt, hash, &Checkpoints::new()).await?;
            // Only the newest checkpoint of the suite tree is stored.
            if u64::try_from(tree.signed).is_ok_and(|it| it == rebuilt.size()) {
                self.check_checkpoint(tree.org_id, &tree.note, rebuilt.size(), &rebuilt.root());
            }
            cursor.next = leaf.index + 1;
        }
        Ok(is_complete)
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
}
