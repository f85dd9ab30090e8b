//! Rounds of signing: what has grown is checked against what was signed, remembered, signed, and put into
//! the suite's tree; then the suite's own head is.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use chassis::{Db, Tx};
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    key::Journal,
    store::{self, Signed},
};
use crate::{
    log::{SUITE, Tree},
    memory::{Head, Refused},
    merkle::{Hash, cover, fold},
    note::Signer,
    proof,
};

/// How often heads are looked at when nothing wakes the signer.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long more entries may come together after a round.
const GATHER: Duration = Duration::from_millis(20);
/// After so long without a head, a heartbeat is logged: at least one a minute.
const HEARTBEAT: time::Duration = time::Duration::seconds(50);
/// How often a tree that is not signed is complained of.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Signs the heads of trees that have grown.
pub(crate) struct Rounds {
    db: Db,
    signer: Arc<Signer>,
    journal: Journal,
    refused: BTreeMap<Uuid, std::time::Instant>,
}

/// Signs until `stop`. Fails, and so ends the process, if the database is older than what was signed.
pub(crate) async fn run(
    db: Db,
    signer: Arc<Signer>,
    folder: PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let journal = Journal::open(&folder)?;
    let mut rounds = Rounds { db: db.clone(), signer, journal, refused: BTreeMap::new() };
    rounds.compare().await?;
    while !stop.is_cancelled() {
        let woken = db.changed();
        match rounds.round().await {
            Ok(true) => tokio::time::sleep(GATHER).await,
            Ok(false) => tokio::select! {
                () = stop.cancelled() => {}
                () = woken => {}
                () = tokio::time::sleep(INTERVAL) => {}
            },
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "heads were not signed; they will be");
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }
    Ok(())
}

impl Rounds {
    /// Compares the database with everything that was signed (G-22).
    async fn compare(&self) -> anyhow::Result<()> {
        let sizes = store::sizes(&self.db).await?;
        let mut lost = vec![];
        for (tree, head) in self.journal.memory.trees() {
            let size = sizes.get(&tree).copied().unwrap_or(0);
            if size < head.size {
                let gone =
                    if tree == SUITE.0 { "the suite's log".to_owned() } else { tree.to_string() };
                lost.push(format!("{gone}: {size} of {} entries", head.size));
            }
        }
        anyhow::ensure!(
            lost.is_empty(),
            "the database is older than what was signed; what is there: {}. Bring back the newest backup. If \
             entries are lost for good, say so to whoever verifies this log, give it another name with \
             --audit-origin, and move the file audit.signed away",
            lost.join("; ")
        );
        Ok(())
    }

    /// Signs what has grown. Answers whether there was anything.
    async fn round(&mut self) -> anyhow::Result<bool> {
        let trees = store::unsigned(&self.db).await?;
        let (mut heads, mut notes) = (vec![], vec![]);
        for tree in &trees {
            match self.head(tree).await? {
                Ok(head) => {
                    heads.push((tree.org_id.0, head));
                    notes.push((tree.number, tree.org_id, head));
                }
                Err(why) => self.complain(tree.org_id.0, why),
            }
        }
        self.journal.remember(&heads)?;
        let sign = |(number, org_id, head): (i32, chassis::OrgId, Head)| Signed {
            tree: Some(number),
            size: head.size,
            leaf: self.signer.sign(&org_id.to_string(), head.size, &head.root),
        };
        let mut leaves: Vec<Signed> = notes.into_iter().map(sign).collect();
        if leaves.is_empty()
            && store::last(&self.db).await?.is_none_or(|it| it < self.db.now() - HEARTBEAT)
        {
            leaves.push(self.heartbeat()?);
        }
        if !leaves.is_empty() {
            let work = async |tx: &mut Tx| store::publish(tx, leaves).await;
            self.db.write_as_system("signer", work).await?;
        }
        Ok(self.sign_suite().await? || !heads.is_empty())
    }

    /// Signs the head of the suite's tree, after what it stands for is committed.
    async fn sign_suite(&mut self) -> anyhow::Result<bool> {
        let Some(tree) = store::unsigned_suite(&self.db).await? else { return Ok(false) };
        let head = match self.head(&tree).await? {
            Ok(head) => head,
            Err(why) => {
                self.complain(SUITE.0, why);
                return Ok(false);
            }
        };
        self.journal.remember(&[(SUITE.0, head)])?;
        let note = self.signer.sign("suite", head.size, &head.root);
        let work = async |tx: &mut Tx| store::sign_suite(tx, head.size, &note).await;
        self.db.write_as_system("signer", work).await?;
        Ok(true)
    }

    /// The head of a tree, if it continues what was signed.
    async fn head(&self, tree: &Tree) -> anyhow::Result<Result<Head, Refused>> {
        let (size, memory) = (tree.edge.size(), &self.journal.memory);
        let mut before = None;
        if let Some(known) = memory.head(tree.org_id.0).filter(|it| it.size <= size) {
            before = Some(self.root_at(tree, known.size).await?);
        }
        if let Err(why) = memory.admit(tree.org_id.0, size, before) {
            return Ok(Err(why));
        }
        let root = tree.edge.root().context("an empty tree has no root to sign")?;
        Ok(Ok(Head { size, root }))
    }

    /// The root that a tree has now at a size that it had.
    async fn root_at(&self, tree: &Tree, size: u64) -> anyhow::Result<Hash> {
        let hashes = proof::store::hashes(&self.db, tree, &cover(0, size)).await?;
        fold(&hashes).context("an empty tree was never signed")
    }

    fn heartbeat(&self) -> anyhow::Result<Signed> {
        let (origin, now) = (self.signer.origin("suite"), self.db.now().format(&Rfc3339)?);
        Ok(Signed { tree: None, size: 0, leaf: format!("tenantry heartbeat\n{origin}\n{now}\n") })
    }

    /// Tells the operator, not too often: somebody has changed the log.
    fn complain(&mut self, tree: Uuid, why: Refused) {
        let last = self.refused.get(&tree);
        if last.is_none_or(|it| it.elapsed() > COMPLAINT) {
            tracing::error!(
                org_id = %tree,
                %why,
                "THE AUDIT LOG WAS CHANGED: its head is not signed any more; run `tenantry audit fsck`"
            );
            self.refused.insert(tree, std::time::Instant::now());
        }
    }
}
