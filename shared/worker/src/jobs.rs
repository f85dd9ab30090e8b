//! States of the jobs of this process, for operators.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use crate::Progress;

/// Longest stored text of an error, in characters.
const ERROR_CHARS_MAX: usize = 1_000;

/// State of a job after its last step.
#[derive(Clone, Debug)]
pub struct JobState {
    /// Number of steps since the start of the process.
    pub steps: u64,
    /// End of the last step.
    pub last_at: SystemTime,
    /// Duration of the last step.
    pub last_duration: Duration,
    /// Outcome of the last step; `None` if it failed.
    pub outcome: Option<Progress>,
    /// Number of failed steps in a row.
    pub failures: u32,
    /// Error of the last failed step; empty if none has failed.
    pub last_error: String,
}

/// States by the name of the job. Jobs with the same name share one.
static JOBS: Mutex<BTreeMap<String, JobState>> = Mutex::new(BTreeMap::new());

fn jobs() -> MutexGuard<'static, BTreeMap<String, JobState>> {
    JOBS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the states of the jobs of this process, by name.
pub fn states() -> BTreeMap<String, JobState> {
    jobs().clone()
}

/// Records a step of a job.
#[expect(clippy::disallowed_methods, reason = "the time is only shown to operators")]
pub(crate) fn record(name: &str, outcome: &anyhow::Result<Progress>, duration: Duration) {
    let mut jobs = jobs();
    let last_at = SystemTime::now();
    let state = match jobs.get_mut(name) {
        Some(state) => state,
        None => jobs.entry(name.to_owned()).or_insert(JobState {
            steps: 0,
            last_at,
            last_duration: duration,
            outcome: None,
            failures: 0,
            last_error: String::new(),
        }),
    };
    state.steps += 1;
    state.last_at = last_at;
    state.last_duration = duration;
    state.outcome = outcome.as_ref().ok().copied();
    match outcome {
        Ok(_) => state.failures = 0,
        Err(error) => {
            state.failures = state.failures.saturating_add(1);
            state.last_error = format!("{error:#}").chars().take(ERROR_CHARS_MAX).collect();
        }
    }
}
