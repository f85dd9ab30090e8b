//! Background work: the loop of all jobs ([`run`]), the deletion of old rows ([`retention`], [`partition`]),
//! and streams that watch an object ([`watch`]). Operators see the states of the jobs ([`jobs`]) and of the
//! queues that they process ([`queue`]).

pub mod jobs;
pub mod partition;
pub mod queue;
pub mod reseal;
pub mod retention;
pub mod watch;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use chassis::{Db, Result};
use opentelemetry::{KeyValue, global, metrics::Counter, metrics::Histogram};
use tokio_util::sync::CancellationToken;

/// First pause after a step that found no work, or that failed; it doubles with each further one.
pub const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Pause after a step that found work. During it further work arrives, so that the next step processes a
/// batch instead of a single event.
const BATCH_INTERVAL: Duration = Duration::from_millis(10);

/// Longest pause after failures.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// Result of one step of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There was work, and there may be more: the next step follows after 10 ms.
    Busy,
    /// There was no work: the next step follows after the pause, or when the database wakes the job.
    Idle,
}

impl Progress {
    /// [`Progress::Busy`] if there was work.
    pub fn busy_if(found: bool) -> Self {
        if found { Self::Busy } else { Self::Idle }
    }
}

/// Schedule of the steps of a job.
pub struct Schedule {
    /// Longest pause between two steps without work.
    pub interval: Duration,
    /// The database whose commits wake the job ([`chassis::Tx::wake`]). With one, the pause starts at
    /// [`POLL_INTERVAL`] and doubles up to `interval`; without one, it is `interval` from the start.
    pub wake: Option<Db>,
}

impl Schedule {
    /// Runs a step in every interval.
    pub fn every(interval: Duration) -> Self {
        Self { interval, wake: None }
    }

    /// Runs a step in every interval, which is at least five seconds if no other process queues work.
    pub fn polling(db: &Db, interval: Duration) -> Self {
        Self::every(db.poll_interval(interval))
    }

    /// Runs a step after each commit of this process that wakes jobs, and at least one in every interval,
    /// because commits of other processes do not wake jobs here.
    /// If no other process queues work, the interval is at least five seconds.
    pub fn woken_by(db: &Db, interval: Duration) -> Self {
        Self { interval: db.poll_interval(interval), wake: Some(db.clone()) }
    }
}

/// Runs the steps of a job until `stop`; the current step ends first. A step that fails is logged
/// with the job's name and repeated with a growing pause, from 100 ms to 5 s.
///
/// Metrics, each with the attribute `name` of the job: `tenantry.job.steps` (with `outcome` = `busy`, `idle`
/// or `failed`) and `tenantry.job.step.duration` in seconds.
pub async fn run<F>(
    job: String,
    schedule: Schedule,
    stop: CancellationToken,
    mut step: impl FnMut() -> F,
) where
    F: Future<Output = anyhow::Result<Progress>>,
{
    let meter = Meter::new(&job);
    let mut failures = 0_u32;
    let mut idle_steps = 0_u32;
    while !stop.is_cancelled() {
        // Created before the step, so that a commit during the step is not missed.
        let woken = schedule.wake.as_ref().map(|db| db.next_commit());
        let started = Instant::now();
        let outcome = step().await;
        meter.record(&outcome, started.elapsed());
        jobs::record(&job, &outcome, started.elapsed());
        let pause = match outcome {
            Ok(Progress::Busy) => {
                failures = 0;
                idle_steps = 0;
                tokio::time::sleep(BATCH_INTERVAL).await;
                continue;
            }
            Ok(Progress::Idle) => {
                failures = 0;
                idle_steps += 1;
                schedule.pause(idle_steps)
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(job, failures, error, "a background step failed; it is repeated");
                failures += 1;
                back_off(failures)
            }
        };
        let woken = async {
            match woken {
                Some(woken) if failures == 0 => woken.await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = woken => idle_steps = 0,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Schedule {
    /// Returns the pause after a number of steps without work in a row.
    fn pause(&self, idle_steps: u32) -> Duration {
        match self.wake {
            Some(_) => POLL_INTERVAL.saturating_mul(1 << idle_steps.min(7)).min(self.interval),
            None => self.interval,
        }
    }
}

/// Returns the pause after a number of failures in a row: 200 ms, 400 ms, … up to 5 s.
pub fn back_off(failures: u32) -> Duration {
    POLL_INTERVAL.saturating_mul(1 << failures.min(6)).min(BACK_OFF_MAX)
}

/// Attempts of [`record`].
const RECORD_ATTEMPTS_MAX: u32 = 6;

/// Repeats a transaction that records what has already happened, and that nothing else repeats, so that one
/// failure of the database does not lose it: at most six attempts within some seconds.
pub async fn record<T, F>(name: &str, transaction: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut failures = 0;
    loop {
        let error = match transaction().await {
            Ok(recorded) => return Ok(recorded),
            Err(error) => error,
        };
        failures += 1;
        if failures == RECORD_ATTEMPTS_MAX {
            return Err(error);
        }
        let error = chassis::error::causes(&error);
        tracing::warn!(name, failures, error, "a result is not recorded; this is repeated");
        tokio::time::sleep(back_off(failures)).await;
    }
}

/// Instruments of one job.
struct Meter {
    name: KeyValue,
    steps: Counter<u64>,
    duration: Histogram<f64>,
}

impl Meter {
    fn new(job: &str) -> Self {
        let meter = global::meter("tenantry");
        Self {
            name: KeyValue::new("name", job.to_owned()),
            steps: meter.u64_counter("tenantry.job.steps").build(),
            duration: meter.f64_histogram("tenantry.job.step.duration").with_unit("s").build(),
        }
    }

    fn record(&self, outcome: &anyhow::Result<Progress>, took: Duration) {
        let outcome = match outcome {
            Ok(Progress::Busy) => "busy",
            Ok(Progress::Idle) => "idle",
            Err(_) => "failed",
        };
        self.steps.add(1, &[self.name.clone(), KeyValue::new("outcome", outcome)]);
        self.duration.record(took.as_secs_f64(), std::slice::from_ref(&self.name));
    }
}
