//! Loop that publishes heads: it sends the newest checkpoint of the suite tree to all witnesses at the same
//! time, and stores it with the cosignatures when the policy is met. It runs on the replica that signs.
//!
//! All witnesses get the same checkpoint in a round, because cosignatures of different checkpoints would not
//! add up. The metric `tenantry.audit.witness_requests` counts the results by `witness` and `outcome`:
//! `cosigned` or `failed`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use chassis::{Db, Tx};
use futures::{StreamExt, stream::FuturesUnordered};
use opentelemetry::{KeyValue, global, metrics::Counter};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use verifier::witness::WitnessPolicy;

use super::client::{Answer, WitnessClient};
use crate::{
    integrity::guard::LogGuard,
    merkle::Hash,
    proof::{prove::Prover, store::SignedTree},
    publication::{SuiteCheckpoint, store},
    tree::SUITE_TREE,
};

/// Time for which further witnesses are waited for when the policy is met.
const GRACE: Duration = Duration::from_millis(200);
/// Pause between rounds without a new head, and after a failure of the database.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Attempts to send a checkpoint to a witness in a round: the first one can name another size.
const ATTEMPTS: usize = 3;
/// Interval of repeated warnings about one witness.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Input of [`run`].
pub(crate) struct CosigningConfig {
    pub(crate) db: Db,
    pub(crate) guard: LogGuard,
    pub(crate) policy: Arc<WitnessPolicy>,
    /// The newest signed checkpoint of the suite tree, while this replica signs.
    pub(crate) checkpoints: watch::Receiver<Option<SuiteCheckpoint>>,
}

/// State of a witness.
struct WitnessState {
    client: WitnessClient,
    /// Size of the newest checkpoint that it has cosigned, as far as known.
    size: u64,
    failures: u32,
    retry_at: Option<Instant>,
    warned_at: Option<Instant>,
}

/// State of the loop.
struct Cosigning {
    db: Db,
    guard: LogGuard,
    policy: Arc<WitnessPolicy>,
    witnesses: Vec<WitnessState>,
    requests: Counter<u64>,
}

/// Publishes heads until `stop`.
pub(crate) async fn run(config: CosigningConfig, stop: CancellationToken) -> anyhow::Result<()> {
    let CosigningConfig { db, guard, policy, mut checkpoints } = config;
    let clients = policy.witnesses().iter().map(WitnessClient::new);
    let witnesses = clients.map(|it| it.map(WitnessState::new)).collect::<Result<_, _>>()?;
    let mut cosigning = Cosigning {
        witnesses,
        db,
        guard,
        policy,
        requests: global::meter("tenantry").u64_counter("tenantry.audit.witness_requests").build(),
    };
    while !stop.is_cancelled() {
        let checkpoint = checkpoints.borrow_and_update().clone();
        let work = async {
            let Some(checkpoint) = checkpoint else { return Ok(None) };
            cosigning.publish(&checkpoint).await
        };
        let pause = match stop.run_until_cancelled(work).await {
            None => break,
            Some(Ok(pause)) => pause,
            Some(Err(error)) => {
                let error = format!("{error:#}");
                tracing::warn!(error, "no head of the audit log was published; it is repeated");
                Some(POLL_INTERVAL)
            }
        };
        let changed = async {
            match pause {
                // Only the time helps: the witnesses are in their pauses.
                Some(pause) => tokio::time::sleep(pause).await,
                None => drop(tokio::time::timeout(POLL_INTERVAL, checkpoints.changed()).await),
            }
        };
        stop.run_until_cancelled(changed).await;
    }
    Ok(())
}

impl Cosigning {
    /// Publishes a checkpoint, unless this one or a newer one is published. Returns the pause before the next
    /// attempt; `None` if it succeeded.
    async fn publish(&mut self, checkpoint: &SuiteCheckpoint) -> anyhow::Result<Option<Duration>> {
        let published = self.guard.publication().await?.suite_size();
        if published.is_some_and(|it| it >= checkpoint.size) {
            return Ok(None);
        }
        let prover = Prover { db: &self.db, guard: &self.guard };
        let tree = prover.newest_tree(SUITE_TREE).await?;
        let tree = tree.filter(|it| it.size >= checkpoint.size);
        let tree = tree.context("the suite tree is smaller than its signed head")?;
        let now = Instant::now();
        let due = self.witnesses.iter_mut().filter(|it| it.retry_at.is_none_or(|at| at <= now));
        let mut answers: FuturesUnordered<_> =
            due.map(|it| it.cosign(&prover, &tree, checkpoint, &self.requests)).collect();
        let mut note = checkpoint.note.clone();
        let mut stored = 0;
        let mut grace = std::pin::pin!(tokio::time::sleep(Duration::MAX / 2));
        loop {
            let line = tokio::select! {
                answer = answers.next() => match answer {
                    Some(Some(line)) => line,
                    Some(None) => continue,
                    None => break,
                },
                () = grace.as_mut(), if stored > 0 => break,
            };
            note += &format!("{line}\n");
            if self.policy.is_met(&note) {
                let upsert = async |tx: &mut Tx| store::upsert(tx, checkpoint.size, &note).await;
                self.db.write_as_system("publication", upsert).await?;
                if stored == 0 {
                    grace.as_mut().reset(tokio::time::Instant::now() + GRACE);
                }
                stored += 1;
            }
        }
        drop(answers);
        if stored > 0 {
            return Ok(None);
        }
        let retry_at = self.witnesses.iter().filter_map(|it| it.retry_at).min();
        let pause =
            retry_at.map_or(POLL_INTERVAL, |it| it.saturating_duration_since(Instant::now()));
        Ok(Some(pause.max(Duration::from_millis(20))))
    }
}

impl WitnessState {
    fn new(client: WitnessClient) -> Self {
        Self { client, size: 0, failures: 0, retry_at: None, warned_at: None }
    }

    /// Returns the signature line of the witness for a checkpoint; `None` after a failure, which delays the
    /// next request to it.
    async fn cosign(
        &mut self,
        prover: &Prover<'_>,
        tree: &SignedTree,
        checkpoint: &SuiteCheckpoint,
        requests: &Counter<u64>,
    ) -> Option<String> {
        let result = self.try_cosign(prover, tree, checkpoint).await;
        let outcome = if result.is_ok() { "cosigned" } else { "failed" };
        let name = self.client.name().to_owned();
        requests.add(1, &[KeyValue::new("witness", name), KeyValue::new("outcome", outcome)]);
        match result {
            Ok(line) => {
                self.failures = 0;
                self.retry_at = None;
                Some(line)
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.retry_at = Some(Instant::now() + worker::back_off(self.failures));
                if self.warned_at.is_none_or(|it| it.elapsed() > WARNING_INTERVAL) {
                    self.warned_at = Some(Instant::now());
                    let (witness, error) = (self.client.name(), format!("{error:#}"));
                    let size = checkpoint.size;
                    tracing::warn!(
                        witness,
                        error,
                        size,
                        "a witness has not cosigned the audit log"
                    );
                }
                None
            }
        }
    }

    async fn try_cosign(
        &mut self,
        prover: &Prover<'_>,
        tree: &SignedTree,
        checkpoint: &SuiteCheckpoint,
    ) -> anyhow::Result<String> {
        for _ in 0..ATTEMPTS {
            ensure!(
                self.size <= checkpoint.size,
                "it has cosigned a checkpoint with {} entries, and the newest one here has {}: the log was \
                 rolled back, or has a fork",
                self.size,
                checkpoint.size
            );
            let proof: Vec<Hash> = if self.size == 0 {
                vec![]
            } else {
                prover.consistency_hashes(tree, self.size, checkpoint.size).await?
            };
            match self.client.add_checkpoint(self.size, &proof, checkpoint).await? {
                Answer::Cosigned(line) => {
                    self.size = checkpoint.size;
                    return Ok(line);
                }
                Answer::OtherSize(size) => self.size = size,
            }
        }
        anyhow::bail!("it names another size in each response")
    }
}
