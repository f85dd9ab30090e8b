//! Recording of every signed head: each replica compares the checkpoints that any replica has stored with the
//! entries and with its own journal, and adds them to the journal.

use std::{collections::BTreeMap, sync::Arc};

use chassis::{Db, Result};
use uuid::Uuid;
use verifier::Pins;

use super::{
    store::{self, StoredCheckpoint, SuiteTree},
    verify::verify,
};
use crate::{
    damage::{Damage, is_damage},
    head_journal::{JournalFile, TreeHead},
    integrity::guard::LogGuard,
    note::{self, CheckpointSigner},
    tree::{SUITE_TREE, SUITE_TREE_NAME, store::LeafRange, tree_name},
};

/// Leaves of the suite tree that are read at a time.
const BATCH: u64 = 5_000;

/// Recorder of the checkpoints of all replicas.
pub(super) struct HeadRecorder {
    pub(super) db: Db,
    pub(super) guard: LogGuard,
    pub(super) signer: Arc<CheckpointSigner>,
    /// Keys that ever signed this log.
    pub(super) pins: Pins,
}

/// Signed heads of each tree, by organization, with increasing sizes.
type HeadsByTree = BTreeMap<Uuid, Vec<TreeHead>>;

impl HeadRecorder {
    /// Records all stored checkpoints that are new. Returns false if the stored suite tree is damaged or
    /// contradicts the journal: signing is stopped then.
    pub(super) async fn record_new(&self, journal: &mut JournalFile) -> anyhow::Result<bool> {
        let suite = self.checked_suite(journal).await;
        let suite = match self.guard.contain(SUITE_TREE.0, suite).await {
            Err(error) if is_damage(&error) => return Ok(false),
            suite => suite?,
        };
        let Some((suite, signed)) = suite else { return Ok(true) };
        let size = suite.tree.edge.size();
        let mut first = journal.head(SUITE_TREE.0).map_or(0, |it| it.size);
        while first < size {
            let end = size.min(first + BATCH);
            let checkpoints = store::checkpoints(&self.db, LeafRange { first, end }).await?;
            let signed_size = signed.map_or(0, |it| it.size);
            for (org_id, heads) in self.heads(checkpoints, signed_size) {
                if let Some(head) = self.checked_head(journal, org_id, heads).await? {
                    journal.record(&[(org_id, head)])?;
                }
            }
            first = end;
        }
        // Last, because the next pass starts after this head.
        if let Some(signed) = signed {
            journal.record(&[(SUITE_TREE.0, signed)])?;
        }
        Ok(true)
    }

    /// Returns the suite tree and its newest signed head, after a comparison with the journal and, from there
    /// on, with its leaves. `None` before the first leaf.
    async fn checked_suite(
        &self,
        journal: &JournalFile,
    ) -> Result<Option<(SuiteTree, Option<TreeHead>)>> {
        let journaled = journal.head(SUITE_TREE.0);
        let Some(suite) = store::suite_tree(&self.db).await? else {
            crate::integrity::check_size(journaled, 0)?;
            return Ok(None);
        };
        let signed = self.suite_head(&suite)?;
        let is_known = journaled.is_some_and(|it| it.size == suite.tree.edge.size());
        if !is_known || signed != journaled {
            let heads: Vec<TreeHead> = signed.into_iter().collect();
            verify(&self.db, &suite.tree, journaled, &heads).await?;
        }
        Ok(Some((suite, signed)))
    }

    /// Returns the head that the stored checkpoint of the suite tree signs; `None` before the first one, and
    /// for a checkpoint under another name of the log ([`chassis::Config::audit_origin`]).
    fn suite_head(&self, suite: &SuiteTree) -> Result<Option<TreeHead>, Damage> {
        if suite.signed == 0 && suite.note.is_empty()
            || !self.is_of_this_log(SUITE_TREE.0, &suite.note)
        {
            return Ok(None);
        }
        let pins = Pins { org_id: Some(SUITE_TREE_NAME.to_owned()), ..self.pins.clone() };
        let opened = verifier::note::open(&suite.note, &pins);
        let checkpoint = opened.map_err(|_| Damage::InvalidCheckpoint)?;
        if checkpoint.size != suite.signed {
            return Err(Damage::InvalidCheckpoint);
        }
        Ok(Some(TreeHead { size: checkpoint.size, root: checkpoint.root }))
    }

    /// Returns the heads that checkpoints sign, by tree. Those among the first `signed_size` leaves of the
    /// suite tree are proven by its head, whichever key signed them; later ones by their own signature.
    fn heads(&self, checkpoints: Vec<StoredCheckpoint>, signed_size: u64) -> HeadsByTree {
        let mut heads = HeadsByTree::new();
        for StoredCheckpoint { index, org_id, note } in checkpoints {
            let is_proven = index < signed_size || self.signer.has_signed(&note);
            let head = note::unverified_head(&note);
            let head = head.filter(|_| is_proven && self.is_of_this_log(org_id, &note));
            heads.entry(org_id).or_default().extend(head);
        }
        heads.retain(|_, heads| !heads.is_empty());
        heads
    }

    fn is_of_this_log(&self, org_id: Uuid, note: &str) -> bool {
        note.lines().next() == Some(&self.signer.origin(&tree_name(org_id)))
    }

    /// Compares signed heads of a tree with its entries and with the journal. Returns the newest one; `None`
    /// if they are known, or if the tree is damaged. Two heads that do not follow each other stop all
    /// signing.
    async fn checked_head(
        &self,
        journal: &JournalFile,
        org_id: Uuid,
        mut heads: Vec<TreeHead>,
    ) -> Result<Option<TreeHead>> {
        let journaled = journal.head(org_id);
        heads.retain(|it| Some(*it) != journaled);
        heads.sort_by_key(|it| it.size);
        let Some(newest) = heads.last().copied() else { return Ok(None) };
        let contradicts = |head: &TreeHead| journaled.is_some_and(|it| it.size == head.size);
        if let Some(other) = heads.iter().find(|it| contradicts(it)) {
            self.stop_signing(org_id, other.size, other.size).await?;
            return Ok(None);
        }
        let tree = self.guard.contain(org_id, store::tree(&self.db, org_id).await).await;
        let tree = match tree {
            Ok(Some(tree)) => tree,
            Ok(None) => return Ok(None),
            Err(error) if is_damage(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Err(error) = verify(&self.db, &tree, journaled, &heads).await else {
            return Ok(Some(newest));
        };
        if !is_damage(&error) {
            return Err(error);
        }
        // The entries match the new heads, so these contradict the one in the journal.
        if let Some(journaled) = journaled
            && verify(&self.db, &tree, None, &heads).await.is_ok()
        {
            self.stop_signing(org_id, journaled.size, newest.size).await?;
        }
        self.guard.quarantine(org_id, &error).await?;
        Ok(None)
    }

    async fn stop_signing(&self, org_id: Uuid, size: u64, other_size: u64) -> Result<()> {
        let detail = format!(
            "two signed heads of tree {} do not follow each other: the one of {size} entries in the journal \
             of this replica, and the stored one of {other_size} entries",
            tree_name(org_id)
        );
        self.guard.stop_signing(org_id, &detail).await
    }
}
