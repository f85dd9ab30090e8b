//! Signing loop: checks each grown tree against the journal of signed heads, records the new head, signs it,
//! and appends the checkpoint to the suite tree, whose own head is signed last.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use chassis::{Db, Tx};
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::store::{self, SuiteLeaf};
use crate::{
    head_journal::{HeadRefusal, JournalFile, TreeHead},
    log::{SUITE_TREE, SUITE_TREE_NAME, Tree, tree_name},
    merkle::{Hash, complete_subtrees, root_of_subtrees},
    note::CheckpointSigner,
    proof,
};

/// Longest pause between two passes when no commit wakes the loop.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Pause after a pass that signed something, so that one checkpoint covers several new entries.
const BATCH_INTERVAL: Duration = Duration::from_millis(20);
/// Age of the newest leaf of the suite tree after which a heartbeat is appended: at least one leaf per minute
///
const HEARTBEAT_INTERVAL: time::Duration = time::Duration::seconds(50);
/// Interval of repeated alerts about one tree.
const ALERT_INTERVAL: Duration = Duration::from_secs(60);

/// State of the signing loop.
struct SigningLoop {
    db: Db,
    signer: Arc<CheckpointSigner>,
    journal: JournalFile,
    /// Time of the last alert about each tree that is not signed any more.
    alerts: BTreeMap<Uuid, Instant>,
}

/// Signs until `stop`. Fails, which ends the process, if the database has fewer entries than were signed.
pub(crate) async fn run(
    db: Db,
    signer: Arc<CheckpointSigner>,
    data_dir: PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let journal = JournalFile::open(&data_dir)?;
    let mut signing = SigningLoop { db: db.clone(), signer, journal, alerts: BTreeMap::new() };
    signing.ensure_database_is_current().await?;
    while !stop.is_cancelled() {
        let commit = db.next_commit();
        match signing.sign_grown_trees().await {
            Ok(true) => tokio::time::sleep(BATCH_INTERVAL).await,
            Ok(false) => tokio::select! {
                () = stop.cancelled() => {}
                () = commit => {}
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            },
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, "the signing of checkpoints failed; it is repeated");
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }
    Ok(())
}

impl SigningLoop {
    /// Fails if a tree has fewer entries than were signed: the database was restored from a backup (G-22).
    async fn ensure_database_is_current(&self) -> anyhow::Result<()> {
        let sizes = store::tree_sizes(&self.db).await?;
        let mut rolled_back = vec![];
        for (org_id, head) in self.journal.journal().heads() {
            let size = sizes.get(&org_id).copied().unwrap_or(0);
            if size < head.size {
                let tree = tree_name(org_id);
                rolled_back.push(format!("tree {tree}: {size} of {} entries", head.size));
            }
        }
        anyhow::ensure!(
            rolled_back.is_empty(),
            "the database is older than what was signed: {}. Restore the newest backup. If entries are lost \
             for good, inform everybody who verifies this log, give the log a new name with --audit-origin, \
             and remove the file audit.signed",
            rolled_back.join("; ")
        );
        Ok(())
    }

    /// Signs every tree that has grown, then the suite tree. Returns true if anything was signed.
    async fn sign_grown_trees(&mut self) -> anyhow::Result<bool> {
        let trees = store::unsigned_trees(&self.db).await?;
        let mut grown = vec![];
        for tree in &trees {
            match self.next_head(tree).await? {
                Ok(head) => grown.push((tree, head)),
                Err(refusal) => self.alert_operator(tree.org_id.0, refusal),
            }
        }
        let heads: Vec<_> = grown.iter().map(|(tree, head)| (tree.org_id.0, *head)).collect();
        self.journal.record(&heads)?;
        let sign = |(tree, head): &(&Tree, TreeHead)| SuiteLeaf::Checkpoint {
            tree: tree.number,
            size: head.size,
            note: self.signer.sign(&tree_name(tree.org_id.0), head.size, &head.root),
        };
        let mut leaves: Vec<SuiteLeaf> = grown.iter().map(sign).collect();
        if leaves.is_empty() && self.is_heartbeat_due().await? {
            leaves.push(self.heartbeat()?);
        }
        if !leaves.is_empty() {
            let publish = async |tx: &mut Tx| store::publish(tx, leaves).await;
            self.db.write_as_system("signer", publish).await?;
        }
        let suite_signed = self.sign_suite_tree().await?;
        Ok(suite_signed || !heads.is_empty())
    }

    /// Signs the suite tree, after the transaction that appended the checkpoints is committed. Returns true
    /// if it had grown.
    async fn sign_suite_tree(&mut self) -> anyhow::Result<bool> {
        let Some(tree) = store::unsigned_suite_tree(&self.db).await? else { return Ok(false) };
        let head = match self.next_head(&tree).await? {
            Ok(head) => head,
            Err(refusal) => {
                self.alert_operator(SUITE_TREE.0, refusal);
                return Ok(false);
            }
        };
        self.journal.record(&[(SUITE_TREE.0, head)])?;
        let note = self.signer.sign(SUITE_TREE_NAME, head.size, &head.root);
        let store = async |tx: &mut Tx| store::set_suite_checkpoint(tx, head.size, &note).await;
        self.db.write_as_system("signer", store).await?;
        Ok(true)
    }

    /// Returns the head of a tree, or the refusal if the tree does not continue its signed head.
    async fn next_head(&self, tree: &Tree) -> anyhow::Result<Result<TreeHead, HeadRefusal>> {
        let size = tree.edge.size();
        let org_id = tree.org_id.0;
        let journal = self.journal.journal();
        let root_at_signed_size = match journal.head(org_id).filter(|it| it.size <= size) {
            Some(signed) => Some(self.root_at(tree, signed.size).await?),
            None => None,
        };
        if let Err(refusal) = journal.check(org_id, size, root_at_signed_size) {
            return Ok(Err(refusal));
        }
        let root = tree.edge.root().context("an empty tree has no root")?;
        Ok(Ok(TreeHead { size, root }))
    }

    /// Computes the root of the first `size` entries of a tree from its stored nodes.
    async fn root_at(&self, tree: &Tree, size: u64) -> anyhow::Result<Hash> {
        let subtrees = complete_subtrees(0, size);
        let hashes = proof::store::node_hashes(&self.db, tree, &subtrees).await?;
        root_of_subtrees(&hashes).context("an empty tree has no root")
    }

    async fn is_heartbeat_due(&self) -> anyhow::Result<bool> {
        let last = store::last_suite_leaf_at(&self.db).await?;
        Ok(last.is_none_or(|it| it < self.db.now() - HEARTBEAT_INTERVAL))
    }

    fn heartbeat(&self) -> anyhow::Result<SuiteLeaf> {
        let origin = self.signer.origin(SUITE_TREE_NAME);
        let now = self.db.now().format(&Rfc3339)?;
        Ok(SuiteLeaf::Heartbeat(format!("tenantry heartbeat\n{origin}\n{now}\n")))
    }

    /// Logs that a tree is not signed any more, at most once per interval and tree.
    fn alert_operator(&mut self, org_id: Uuid, refusal: HeadRefusal) {
        let last = self.alerts.get(&org_id);
        if last.is_none_or(|it| it.elapsed() > ALERT_INTERVAL) {
            tracing::error!(
                %org_id,
                %refusal,
                "THE AUDIT LOG WAS MODIFIED: its tree is not signed any more; run `tenantry audit fsck`"
            );
            self.alerts.insert(org_id, Instant::now());
        }
    }
}
