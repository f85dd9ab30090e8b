//! Signing loop of a replica: records the heads that any replica signed. While it holds the lease, it also
//! checks each grown tree, records the new head, signs it, and appends the checkpoint to the suite tree,
//! whose own head is signed last.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use chassis::{Db, Tx};
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use verifier::{Pins, note::VerifierKey};

use super::{
    follow::HeadRecorder,
    lease::Lease,
    store::{self, Fence, StoredTree, SuiteLeaf},
    verify::verify,
};
use crate::{
    damage::is_damage,
    head_journal::{JournalFile, TreeHead},
    integrity::guard::LogGuard,
    note::CheckpointSigner,
    publication::SuiteCheckpoint,
    tree::{SUITE_TREE, SUITE_TREE_NAME, Tree, tree_name},
};

/// Longest pause between two passes when no commit wakes the loop: those of other replicas do not.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// The same if no other process changes the database. Shorter than the lease, which a pass renews.
const LOCAL_POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Pause after a pass that signed something, so that one checkpoint covers several new entries.
const BATCH_INTERVAL: Duration = Duration::from_millis(20);
/// Age of the newest leaf of the suite tree after which a heartbeat is appended: at least one leaf per minute
///
const HEARTBEAT_INTERVAL: time::Duration = time::Duration::seconds(50);
/// Interval of repeated alarms.
const ALARM_INTERVAL: Duration = Duration::from_secs(60);
/// Interval of the metrics about quarantines and the stop of signing.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);

/// State of the signing loop.
struct SigningLoop {
    db: Db,
    guard: LogGuard,
    signer: Arc<CheckpointSigner>,
    journal: JournalFile,
    recorder: HeadRecorder,
    lease: Lease,
    poll_interval: Duration,
    checkpoints: Option<watch::Sender<Option<SuiteCheckpoint>>>,
    last_alarm: Option<Instant>,
    last_measurement: Option<Instant>,
}

/// Input of [`run`].
pub(crate) struct SigningConfig {
    pub(crate) db: Db,
    pub(crate) guard: LogGuard,
    pub(crate) signer: Arc<CheckpointSigner>,
    /// Verifier keys of all keys that ever signed this log.
    pub(crate) verifier_keys: Vec<String>,
    pub(crate) data_dir: PathBuf,
    /// True if no other process changes the database.
    pub(crate) is_only_process: bool,
    /// Channel for the signed checkpoints of the suite tree, if witnesses cosign them.
    pub(crate) checkpoints: Option<watch::Sender<Option<SuiteCheckpoint>>>,
}

/// Signs until `stop`. Fails, which ends the process, if the database has fewer entries than were signed. Any
/// other failure, also of the first step, is repeated.
pub(crate) async fn run(config: SigningConfig, stop: CancellationToken) -> anyhow::Result<()> {
    let SigningConfig { db, guard, signer, verifier_keys, data_dir, is_only_process, checkpoints } =
        config;
    let journal = JournalFile::open(&data_dir, guard.heads.clone())?;
    let keys = verifier_keys.iter().map(|it| VerifierKey::parse(it)).collect::<Result<_, _>>()?;
    let mut signing = SigningLoop {
        lease: Lease::new(db.clone(), journal.replica()),
        recorder: HeadRecorder {
            db: db.clone(),
            guard: guard.clone(),
            signer: signer.clone(),
            pins: Pins { keys, ..Pins::default() },
        },
        db: db.clone(),
        guard,
        signer,
        journal,
        poll_interval: if is_only_process { LOCAL_POLL_INTERVAL } else { POLL_INTERVAL },
        checkpoints,
        last_alarm: None,
        last_measurement: None,
    };
    let Some(rolled_back) = signing.find_rolled_back_trees(&stop).await else { return Ok(()) };
    signing.ensure_database_is_current(rolled_back).await?;
    while !stop.is_cancelled() {
        let commit = db.next_commit();
        match signing.step().await {
            Ok(true) => tokio::time::sleep(BATCH_INTERVAL).await,
            Ok(false) => tokio::select! {
                () = stop.cancelled() => {}
                () = commit => {}
                () = tokio::time::sleep(signing.poll_interval) => {}
            },
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, "the signing of checkpoints failed; it is repeated");
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }
    if let Err(error) = signing.lease.release().await {
        tracing::warn!(
            error = chassis::error::causes(&error),
            "the lease of the signer was not released; it expires in a few seconds"
        );
    }
    Ok(())
}

impl SigningLoop {
    /// Returns the trees that have fewer entries than were signed. Repeats until the database responds;
    /// `None` after `stop`.
    async fn find_rolled_back_trees(&self, stop: &CancellationToken) -> Option<Vec<String>> {
        let mut failures = 0;
        let sizes = loop {
            match stop.run_until_cancelled(store::tree_sizes(&self.db)).await? {
                Ok(sizes) => break sizes,
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    tracing::warn!(error, "the sizes of the logs cannot be read; it is repeated");
                    failures += 1;
                    stop.run_until_cancelled(tokio::time::sleep(worker::back_off(failures)))
                        .await?;
                }
            }
        };
        let mut rolled_back = vec![];
        for (org_id, head) in self.journal.heads().heads() {
            let size = sizes.get(&org_id).copied().unwrap_or(0);
            if size < head.size {
                let tree = tree_name(org_id);
                rolled_back.push(format!("tree {tree}: {size} of {} entries", head.size));
            }
        }
        Some(rolled_back)
    }

    /// Fails if a tree has fewer entries than were signed: the database was restored from a backup (G-22).
    /// Stops all signing then, so that no other replica continues the older log.
    async fn ensure_database_is_current(&self, rolled_back: Vec<String>) -> anyhow::Result<()> {
        if rolled_back.is_empty() {
            return Ok(());
        }
        let detail =
            format!("the database is older than what was signed: {}", rolled_back.join("; "));
        self.guard.stop_signing(SUITE_TREE.0, &detail).await?;
        anyhow::bail!(
            "{detail}. Restore the newest backup. If entries are lost for good, inform everybody who \
             verifies this log, remove the file audit.signed, choose a new name for the log with \
             --audit-origin, and run `tenantry audit fsck --release` with it before the next start"
        )
    }

    /// Runs one pass. Returns true if anything was signed.
    async fn step(&mut self) -> anyhow::Result<bool> {
        if self.last_measurement.is_none_or(|it| it.elapsed() > MEASURE_INTERVAL) {
            self.guard.measure().await?;
            self.last_measurement = Some(Instant::now());
        }
        if self.last_alarm.is_none_or(|it| it.elapsed() > ALARM_INTERVAL) {
            self.guard.repeat_alarms().await?;
            self.last_alarm = Some(Instant::now());
        }
        let state = store::signer_state(&self.db, self.guard.log_name()).await?;
        if state.is_stopped || !self.recorder.record_new(&mut self.journal).await? {
            return Ok(false);
        }
        match self.lease.signing_token(&state).await? {
            Some(token) => {
                self.sign_grown_trees(Fence { replica: self.journal.replica(), token }).await
            }
            None => Ok(false),
        }
    }

    /// Signs every tree that has grown, then the suite tree. Returns true if anything was signed.
    async fn sign_grown_trees(&mut self, fence: Fence) -> anyhow::Result<bool> {
        let mut heads = vec![];
        let mut leaves = vec![];
        for StoredTree { org_id, tree } in store::unsigned_trees(&self.db).await? {
            let tree = self.guard.contain(org_id, tree.map_err(Into::into)).await;
            let checked = match tree {
                Ok(tree) => self.next_head(&tree).await?.map(|head| (tree.number, head)),
                Err(error) if is_damage(&error) => None,
                Err(error) => return Err(error.into()),
            };
            if let Some((number, head)) = checked {
                heads.push((org_id, head));
                let note = self.signer.sign(&tree_name(org_id), head.size, &head.root);
                leaves.push(SuiteLeaf::Checkpoint { tree: number, size: head.size, note });
            }
        }
        // Before the signatures leave the process.
        self.journal.record(&heads)?;
        if leaves.is_empty() && self.is_heartbeat_due().await? {
            leaves.push(self.heartbeat()?);
        }
        if !leaves.is_empty() {
            let publish = async |tx: &mut Tx| store::publish(tx, fence, leaves).await;
            let published = self.db.write_as_system("signer", publish).await;
            self.guard.contain(SUITE_TREE.0, published).await?;
        }
        let suite_signed = self.sign_suite_tree(fence).await?;
        Ok(suite_signed || !heads.is_empty())
    }

    /// Signs the suite tree, after the transaction that appended the checkpoints is committed. Returns true
    /// if it had grown.
    async fn sign_suite_tree(&mut self, fence: Fence) -> anyhow::Result<bool> {
        let suite = self.guard.contain(SUITE_TREE.0, store::suite_tree(&self.db).await).await?;
        let Some(suite) = suite else { return Ok(false) };
        if suite.signed >= suite.tree.edge.size() {
            // Of an earlier process, or of a replica that held the lease before.
            self.submit(suite.signed, &suite.note);
            return Ok(false);
        }
        let Some(head) = self.next_head(&suite.tree).await? else { return Ok(false) };
        self.journal.record(&[(SUITE_TREE.0, head)])?;
        let note = self.signer.sign(SUITE_TREE_NAME, head.size, &head.root);
        let store =
            async |tx: &mut Tx| store::set_suite_checkpoint(tx, fence, head.size, &note).await;
        self.db.write_as_system("signer", store).await?;
        self.submit(head.size, &note);
        Ok(true)
    }

    /// Passes the newest checkpoint of the suite tree on to the witnesses.
    fn submit(&self, size: u64, note: &str) {
        let Some(checkpoints) = &self.checkpoints else { return };
        checkpoints.send_if_modified(|newest| {
            let is_new = newest.as_ref().is_none_or(|it| it.size != size);
            if is_new {
                *newest = Some(SuiteCheckpoint { size, note: note.to_owned() });
            }
            is_new
        });
    }

    /// Returns the head of a tree, after a comparison of its new entries and of its signed head with the
    /// journal; `None` if the tree is damaged.
    async fn next_head(&self, tree: &Tree) -> anyhow::Result<Option<TreeHead>> {
        let org_id: Uuid = tree.org_id.0;
        let root = verify(&self.db, tree, self.journal.head(org_id), &[]).await;
        match self.guard.contain(org_id, root).await {
            Ok(root) => Ok(Some(TreeHead { size: tree.edge.size(), root })),
            Err(error) if is_damage(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
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
}
