//! Job that checks the whole log once per interval, on one replica at a time. Damage puts logs in quarantine.
//!
//! Metrics: the gauges `tenantry.fsck.interval` (seconds; 0 for never),
//! `tenantry.fsck.last_success_timestamp` (seconds since 1970 at which the newest completed check ended; 0
//! before the first one) and `tenantry.fsck.findings` (of that check).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::ensure;
use chassis::{Db, Error, Result, Tx};
use host::admin::{LogCheck, LogChecks, LogIntegrity};
use opentelemetry::{global, metrics::Gauge};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use worker::{Progress, Schedule};

use super::{
    Findings,
    check::Fsck,
    release,
    schedule::next_start,
    store::run::{self, Run, RunResult},
    subject_keys,
};
use crate::{damage::Damage, integrity::guard::LogGuard, subject_key::KeyVault};

/// Interval at which the job looks for a check that is due.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Pause after a slice, as a multiple of its duration: a check takes a quarter of one connection's time.
const PAUSE_FACTOR: u32 = 3;
/// Longest pause after a slice.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Interval of the signs of life of a run.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Findings of a run that are stored.
const STORED_FINDINGS_MAX: usize = 100;

/// The job, and the part of the AdminService about it.
pub(crate) struct FsckJob {
    pub(crate) db: Db,
    pub(crate) guard: LogGuard,
    pub(crate) vault: KeyVault,
    /// Verifier keys of all keys that ever signed this log.
    pub(crate) verifier_keys: Vec<String>,
    /// Time between the starts of two checks; `None` for never.
    pub(crate) interval: Option<Duration>,
    /// Run that an operator has started, and that the job has not taken yet.
    pub(crate) requested: Mutex<Option<Uuid>>,
    pub(crate) meter: Meter,
}

/// Instruments of the job.
pub(crate) struct Meter {
    interval: Gauge<u64>,
    last_success: Gauge<f64>,
    findings: Gauge<i64>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        let meter = global::meter("tenantry");
        let last_success = meter.f64_gauge("tenantry.fsck.last_success_timestamp");
        Self {
            interval: meter.u64_gauge("tenantry.fsck.interval").with_unit("s").build(),
            last_success: last_success.with_unit("s").build(),
            findings: meter.i64_gauge("tenantry.fsck.findings").build(),
        }
    }

    fn record(&self, interval: Option<Duration>, runs: &[Run]) {
        let last = newest_completed(runs);
        let ended_at = last.and_then(|it| it.ended_at);
        self.interval.record(interval.unwrap_or_default().as_secs(), &[]);
        let timestamp =
            ended_at.map_or(0.0, |it| (it - time::UtcDateTime::UNIX_EPOCH).as_seconds_f64());
        self.last_success.record(timestamp, &[]);
        self.findings.record(last.map_or(0, |it| it.finding_count), &[]);
    }
}

/// Runs the job until `stop`.
pub(crate) async fn run(job: Arc<FsckJob>, stop: CancellationToken) -> anyhow::Result<()> {
    let step = || job.step(&stop);
    let schedule = Schedule::polling(&job.db, POLL_INTERVAL);
    worker::run("check of the audit log".to_owned(), schedule, stop.clone(), step).await;
    Ok(())
}

impl FsckJob {
    /// Runs a check if one is due or requested.
    async fn step(&self, stop: &CancellationToken) -> anyhow::Result<Progress> {
        let run_id = match self.take_requested() {
            Some(id) => Some(id),
            None => self.start_if_due().await?,
        };
        let outcome = match run_id {
            Some(id) => self.run_check(id, stop).await,
            None => Ok(()),
        };
        self.meter.record(self.interval, &run::list(&self.db).await?);
        outcome.map(|()| Progress::Idle)
    }

    fn take_requested(&self) -> Option<Uuid> {
        self.requested.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Starts a run if one is due and no other replica has started it.
    async fn start_if_due(&self) -> Result<Option<Uuid>> {
        let Some(interval) = self.interval else { return Ok(None) };
        let now = self.db.now();
        let runs = run::list(&self.db).await?;
        match next_start(&runs, saturating(interval), now) {
            Some(next) if next <= now => self.start_run().await,
            _ => Ok(None),
        }
    }

    async fn start_run(&self) -> Result<Option<Uuid>> {
        let insert = async |tx: &mut Tx| run::insert(tx).await;
        self.db.write_as_system("fsck", insert).await
    }

    /// Checks the log, puts damaged logs into quarantine and stores the result.
    async fn run_check(&self, id: Uuid, stop: &CancellationToken) -> anyhow::Result<()> {
        let outcome = self.check(id, stop).await;
        let result = match &outcome {
            Ok(findings) => result_of(findings),
            Err(error) => RunResult { error: format!("{error:#}"), ..RunResult::default() },
        };
        let RunResult { trees, entries, finding_count, .. } = result;
        let store = async |tx: &mut Tx| run::end(tx, id, &result).await;
        self.db.write_as_system("fsck", store).await?;
        outcome?;
        tracing::info!(trees, entries, finding_count, "the audit log was checked");
        Ok(())
    }

    async fn check(&self, id: Uuid, stop: &CancellationToken) -> anyhow::Result<Findings> {
        // Before the trees, which then have at least these entries.
        let journal = self.guard.heads.all();
        let mut check = Fsck::start(&self.db, &self.verifier_keys, journal).await?;
        let mut pace = Pace { job: self, id, stop, seen_at: Instant::now() };
        let mut started = Instant::now();
        while check.next_slice().await? {
            pace.pause(started.elapsed()).await?;
            started = Instant::now();
        }
        let mut findings = check.finish();
        let mut position = Some(Uuid::nil());
        while let Some(after) = position {
            let started = Instant::now();
            position =
                subject_keys::check_page(&self.db, &self.vault, after, &mut findings).await?;
            pace.pause(started.elapsed()).await?;
        }
        for (org_id, difference) in &findings.damaged {
            let damage: Error = Damage::FailedCheck { difference: difference.clone() }.into();
            self.guard.quarantine(*org_id, &damage).await?;
        }
        Ok(findings)
    }
}

/// Pauses between the slices of a run.
struct Pace<'a> {
    job: &'a FsckJob,
    id: Uuid,
    stop: &'a CancellationToken,
    /// Time of the last sign of life.
    seen_at: Instant,
}

impl Pace<'_> {
    /// Pauses after a slice. Fails if the process stops, or if another replica has ended the run.
    async fn pause(&mut self, took: Duration) -> anyhow::Result<()> {
        let pause = took.saturating_mul(PAUSE_FACTOR).min(PAUSE_MAX);
        let paused = self.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        ensure!(paused.is_some(), "the process stopped during the check");
        if self.seen_at.elapsed() > PROGRESS_INTERVAL {
            let id = self.id;
            let record = async |tx: &mut Tx| run::record_progress(tx, id).await;
            let is_current = self.job.db.write_as_system("fsck", record).await?;
            ensure!(is_current, "another replica has taken over the check");
            self.seen_at = Instant::now();
        }
        Ok(())
    }
}

/// Returns the newest run that completed.
fn newest_completed(runs: &[Run]) -> Option<&Run> {
    runs.iter().find(|it| it.ended_at.is_some() && it.error.is_empty())
}

fn result_of(findings: &Findings) -> RunResult {
    let count = |it: u64| i64::try_from(it).unwrap_or(i64::MAX);
    let all: Vec<_> = findings.differences.iter().chain(&findings.unreadable_keys).collect();
    RunResult {
        trees: count(findings.trees),
        entries: count(findings.entries),
        checkpoints: count(findings.checkpoints),
        finding_count: i64::try_from(all.len()).unwrap_or(i64::MAX),
        findings: all.into_iter().take(STORED_FINDINGS_MAX).cloned().collect(),
        error: String::new(),
    }
}

fn saturating(duration: Duration) -> time::Duration {
    time::Duration::try_from(duration).unwrap_or(time::Duration::MAX)
}

#[tonic::async_trait]
impl LogChecks for FsckJob {
    async fn integrity(&self) -> Result<LogIntegrity> {
        let runs = run::list(&self.db).await?;
        let now = self.db.now();
        let mut restrictions = Findings::default();
        release::list_restrictions(&self.db, self.guard.log_name(), &mut restrictions).await?;
        Ok(LogIntegrity {
            interval: self.interval,
            next_at: self.interval.and_then(|it| next_start(&runs, saturating(it), now)),
            findings: newest_completed(&runs).map(|it| it.findings.clone()).unwrap_or_default(),
            runs: runs.into_iter().map(log_check).collect(),
            restrictions: restrictions.restrictions,
        })
    }

    async fn start_check(&self) -> Result<bool> {
        let Some(id) = self.start_run().await? else { return Ok(false) };
        *self.requested.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        Ok(true)
    }
}

fn log_check(run: Run) -> LogCheck {
    let Run { started_at, ended_at, trees, entries, checkpoints, finding_count, error, .. } = run;
    LogCheck { started_at, ended_at, trees, entries, checkpoints, finding_count, error }
}
