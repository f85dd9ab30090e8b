//! The verbs of a driver. The first one runs processes of this machine; one for a container engine or a
//! cluster has the same.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use api::project::{Capacity, EnvironmentReport, Lease, Observed};
use tokio::sync::mpsc::Sender;

/// Bytes of a task's log.
const LOG_BYTES_MAX: usize = 1 << 20;

/// Lines of a task's log.
const LOG_LINES_MAX: usize = 10_000;

/// Properties of a driver, for operators.
#[derive(Clone, Debug)]
pub struct DriverInfo {
    /// What the machine has.
    pub capacity: Capacity,
    /// Means that keep environments apart.
    pub isolation: String,
    /// Means that enforce limits.
    pub limits: String,
}

/// A commit's own words: foreign text.
#[derive(Clone, Debug, Default)]
pub struct CommitInfo {
    /// The first line of its message.
    pub subject: String,
    /// The name of its author.
    pub author: String,
}

/// The state after a task.
#[derive(Clone, Debug, Default)]
pub struct TaskOutcome {
    /// The commit that serves.
    pub commit: String,
    /// Empty unless the task fetched the commit.
    pub commit_info: CommitInfo,
    /// The address at which it serves; empty if nothing does.
    pub url: String,
    /// The state that a SYNC found.
    pub observed: Option<Observed>,
}

/// Progress of a task since the last report.
#[derive(Debug, Default)]
pub(crate) struct ProgressUpdate {
    pub(crate) percent: i32,
    pub(crate) step: &'static str,
    /// Number of the step, from 1.
    pub(crate) step_number: i32,
    pub(crate) step_count: i32,
    pub(crate) lines: Vec<String>,
}

/// Room that is left in a task's log.
#[derive(Debug)]
struct LogBudget {
    bytes: usize,
    lines: usize,
    is_closed: bool,
}

impl LogBudget {
    /// The lines that fit. The first that does not is replaced by a line that says so; later ones are
    /// dropped.
    fn admit(&mut self, lines: Vec<String>) -> Vec<String> {
        let mut admitted = vec![];
        for line in lines {
            if self.is_closed {
                break;
            }
            if self.lines == 0 || self.bytes < line.len() {
                self.is_closed = true;
                admitted.push(format!(
                    "the log is longer than {LOG_LINES_MAX} lines or {} MiB; the rest is not kept",
                    LOG_BYTES_MAX >> 20
                ));
                break;
            }
            self.lines -= 1;
            self.bytes -= line.len();
            admitted.push(line);
        }
        admitted
    }
}

/// Receives the progress and the log of a task.
#[derive(Clone)]
pub struct ProgressReporter {
    updates: Sender<ProgressUpdate>,
    is_settled: Arc<AtomicBool>,
    budget: Arc<Mutex<LogBudget>>,
}

impl ProgressReporter {
    pub(crate) fn new(updates: Sender<ProgressUpdate>) -> Self {
        let budget = LogBudget { bytes: LOG_BYTES_MAX, lines: LOG_LINES_MAX, is_closed: false };
        Self { updates, is_settled: Arc::default(), budget: Arc::new(Mutex::new(budget)) }
    }

    /// Begins a step and logs a line about it. Steps are logged although the log is full.
    pub async fn step(&self, step: &'static str, number: i32, of: i32, line: impl Into<String>) {
        let (percent, lines) = (number * 90 / of, vec![line.into()]);
        let update = ProgressUpdate { percent, step, step_number: number, step_count: of, lines };
        self.send(update).await;
    }

    /// Logs lines, within the budget of the task.
    pub async fn log(&self, lines: Vec<String>) {
        let lines = self.budget.lock().unwrap_or_else(PoisonError::into_inner).admit(lines);
        if !lines.is_empty() {
            self.send(ProgressUpdate { lines, ..ProgressUpdate::default() }).await;
        }
    }

    /// Marks the point from which the task can no longer be cancelled.
    pub fn settle(&self) {
        self.is_settled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Relaxed)
    }

    async fn send(&self, update: ProgressUpdate) {
        // The receiver is gone only when the lease is lost, and then this work ends, too.
        let _ = self.updates.send(update).await;
    }
}

/// Runs environments. Each method brings about a state, also if half of it is there already: a task can come
/// again after its runner died. No two run at once for one environment.
#[tonic::async_trait]
pub trait Driver: Send + Sync + 'static {
    /// Its properties.
    fn info(&self) -> DriverInfo;
    /// Puts a branch, or a commit, in place of what serves, which goes on until the new version is healthy. A
    /// rollback names a `release` that was there before.
    async fn deploy(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Starts what was deployed, unless it runs.
    async fn start(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Ends what runs.
    async fn stop(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Freezes what runs.
    async fn pause(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Continues what is frozen.
    async fn resume(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Finds out whether it runs.
    async fn observe(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Copies another environment of this server here, with its data.
    async fn copy(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Provides or removes the extra services of an environment.
    async fn provision(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// The address at which programs reach their databases; empty if there are none.
    fn database_address(&self) -> String;
    /// Removes everything of an environment.
    async fn destroy(&self, environment_id: &str) -> Result<()>;
    /// Cleans up after a deployment that was cancelled.
    async fn abandon(&self, lease: &Lease) -> Result<()>;
    /// Restarts what ended by itself; called every few seconds.
    async fn reconcile(&self);
    /// Measures files; called every few seconds, apart from everything else, because it takes time.
    async fn measure(&self);
    /// A report about every environment.
    async fn reports(&self) -> Vec<EnvironmentReport>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_ends_with_a_line_that_says_so() {
        let mut budget = LogBudget { bytes: 10, lines: 3, is_closed: false };
        assert_eq!(budget.admit(vec!["12345".to_owned()]), ["12345"]);
        let rest = budget.admit(vec!["1".to_owned(), "too long".to_owned(), "x".to_owned()]);
        assert_eq!(rest.len(), 2);
        assert!(rest[1].contains("not kept"));
        assert!(budget.admit(vec!["x".to_owned()]).is_empty());
        let mut short = LogBudget { bytes: 10, lines: 1, is_closed: false };
        assert_eq!(short.admit(vec!["1".to_owned(), "2".to_owned()]).len(), 2);
    }
}
