//! Interface between the runner and the technology that runs environments. The only implementation runs
//! processes of this machine, in sandboxes or in containers (`process`); one for a cluster would implement
//! the same trait.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use api::project::{
    Capacity, CommandLease, CommandRefusal, EnvironmentReport, Lease, LogLine, LogQuery, Observed,
    StreamInput,
};
use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender};

use crate::{certificate::CertificateStore, secrets::Secrets, text::LINE_BYTES_MAX};

/// Maximum size of a task's log, in bytes.
const LOG_BYTES_MAX: usize = 1 << 20;

/// Maximum number of lines in a task's log.
const LOG_LINES_MAX: usize = 10_000;

/// Properties of a driver, shown to operators.
#[derive(Clone, Debug)]
pub struct DriverInfo {
    /// CPU, memory and disk of the machine.
    pub capacity: Capacity,
    /// Description of the isolation between environments.
    pub isolation: String,
    /// Description of the enforcement of resource limits.
    pub limits: String,
}

/// Metadata of a commit. Anyone who can push to the repository chooses it, so it is untrusted text.
#[derive(Clone, Debug, Default)]
pub struct CommitInfo {
    /// First line of the commit message.
    pub subject: String,
    /// Name of the author.
    pub author: String,
}

/// Host name of an environment.
#[derive(Clone, Debug)]
pub struct EnvironmentHostname {
    /// Id of the environment.
    pub environment_id: String,
    /// Host name, in lower case.
    pub hostname: String,
}

/// Output of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandOutput {
    /// Standard output, or that of the terminal.
    Output(Bytes),
    /// Error output of a command without a terminal.
    ErrorOutput(Bytes),
}

/// Input and output of a command.
#[derive(Debug)]
pub struct CommandStreams {
    /// Messages to the command.
    pub inputs: Receiver<StreamInput>,
    /// Its output.
    pub outputs: Sender<CommandOutput>,
}

/// Result of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandResult {
    /// The command has ended with this status: 128 plus the number of the signal that killed it.
    Exited(i32),
    /// The command was not started.
    Refused(CommandRefusal),
}

/// Result of a successful task.
#[derive(Clone, Debug, Default)]
pub struct TaskOutcome {
    /// Commit that is deployed.
    pub commit: String,
    /// Metadata of the commit; empty unless the task fetched it.
    pub commit_info: CommitInfo,
    /// URL of the running program; empty if none runs.
    pub url: String,
    /// State found by a SYNC task; `None` for other tasks.
    pub observed: Option<Observed>,
}

/// Progress of a task since the last report.
#[derive(Debug, Default)]
pub struct ProgressUpdate {
    /// Progress in percent; 0 if it has not changed.
    pub percent: i32,
    /// Name of the current step; empty if it has not changed.
    pub step: &'static str,
    /// Number of the current step, starting at 1; 0 if it has not changed.
    pub step_number: i32,
    /// Number of all steps of the task; 0 if it has not changed.
    pub step_count: i32,
    /// New log lines.
    pub lines: Vec<String>,
}

/// Remaining capacity of a task's log.
#[derive(Debug)]
struct LogBudget {
    bytes: usize,
    lines: usize,
    is_exhausted: bool,
}

impl LogBudget {
    /// Returns the lines that fit. The first line that does not fit is replaced by a truncation notice; all
    /// later lines are dropped.
    fn admit(&mut self, lines: Vec<String>) -> Vec<String> {
        let mut admitted = vec![];
        for line in lines {
            if self.is_exhausted {
                break;
            }
            if self.lines == 0 || self.bytes < line.len() {
                self.is_exhausted = true;
                admitted.push(format!(
                    "log truncated: it exceeds {LOG_LINES_MAX} lines or {} MiB",
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

/// Sends the progress and the log of a task to the task's worker, which reports them. Lines are cleaned, and
/// secrets in them are replaced.
#[derive(Clone)]
pub struct ProgressReporter {
    updates: Sender<ProgressUpdate>,
    is_irreversible: Arc<AtomicBool>,
    budget: Arc<Mutex<LogBudget>>,
    secrets: Arc<Secrets>,
}

impl ProgressReporter {
    /// Returns a reporter that sends to a channel, without the secrets of a lease.
    pub fn new(updates: Sender<ProgressUpdate>, lease: &Lease) -> Self {
        let secrets = Arc::new(Secrets::of_lease(lease));
        let budget = LogBudget { bytes: LOG_BYTES_MAX, lines: LOG_LINES_MAX, is_exhausted: false };
        let budget = Arc::new(Mutex::new(budget));
        Self { updates, is_irreversible: Arc::default(), budget, secrets }
    }

    /// Starts step `number` of `step_count` and logs a line about it, even if the log's budget is exhausted.
    pub async fn step(
        &self,
        step: &'static str,
        number: i32,
        step_count: i32,
        line: impl Into<String>,
    ) {
        let update = ProgressUpdate {
            // The remaining 10 % are for the report of the result.
            percent: number * 90 / step_count,
            step,
            step_number: number,
            step_count,
            lines: vec![self.redacted(&line.into())],
        };
        self.send(update).await;
    }

    /// Logs lines, within the log's budget.
    pub async fn log(&self, lines: Vec<String>) {
        if self.lock_budget().is_exhausted {
            return;
        }
        let lines = lines.iter().map(|it| self.redacted(it)).collect();
        let lines = self.lock_budget().admit(lines);
        if !lines.is_empty() {
            self.send(ProgressUpdate { lines, ..ProgressUpdate::default() }).await;
        }
    }

    /// Returns a line as it is reported.
    pub(crate) fn redacted(&self, line: &str) -> String {
        self.secrets.redact_line(line, LINE_BYTES_MAX)
    }

    fn lock_budget(&self) -> MutexGuard<'_, LogBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the point after which the task can no longer be cancelled.
    pub fn mark_irreversible(&self) {
        self.is_irreversible.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_irreversible(&self) -> bool {
        self.is_irreversible.load(Ordering::Relaxed)
    }

    async fn send(&self, update: ProgressUpdate) {
        // Fails only after the receiver is dropped, which happens when the task has ended or is aborted.
        let _ = self.updates.send(update).await;
    }
}

/// Runs environments. All methods that take a lease are idempotent: a task is leased again after its runner
/// crashed, and may be half done. The project service leases at most one task per environment at a time.
#[tonic::async_trait]
pub trait Driver: Send + Sync + 'static {
    /// Returns capacity, isolation and limits.
    fn info(&self) -> DriverInfo;
    /// Deploys the head of a branch or a commit. The previous version keeps running until the new one is
    /// healthy. A rollback names a `release` that was deployed before.
    async fn deploy(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Starts the deployed version, unless it is running.
    async fn start(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Stops the running version.
    async fn stop(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Replaces the running program of the deployed version by a new one. Starts it if none runs.
    async fn restart(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Updates modules of the running version (variable `MODULES`), by the command of its recipe.
    async fn update_modules(&self, lease: &Lease, report: &ProgressReporter)
    -> Result<TaskOutcome>;
    /// Freezes the running version: it keeps its memory and gets no processor time.
    async fn pause(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Continues a paused version.
    async fn resume(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Returns the actual state.
    async fn observe(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Copies another environment of this server, with its data, into the environment of the lease.
    async fn copy(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Creates, changes or removes the add-ons of an environment.
    async fn provision(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome>;
    /// Returns `host:port` of the database server of environments; empty before it is started.
    fn database_address(&self) -> String;
    /// Removes an environment with its files, processes and databases.
    async fn destroy(&self, environment_id: &str) -> Result<()>;
    /// Cleans up after a cancelled task.
    async fn abandon(&self, lease: &Lease) -> Result<()>;
    /// Returns the state of an environment after a task that failed or was cancelled; `None` if it is
    /// unknown.
    async fn observed(&self, environment_id: &str) -> Option<Observed>;
    /// Restarts programs that ended unexpectedly; called every few seconds.
    async fn reconcile(&self);
    /// Measures the disk usage of environments; called every few seconds in a task of its own, because it
    /// takes long.
    async fn measure(&self);
    /// Returns the host names of all environments of this server.
    async fn hostnames(&self) -> Vec<EnvironmentHostname>;
    /// Returns the certificates that the proxy serves; `None` if it requests them itself, or has none.
    fn certificates(&self) -> Option<Arc<CertificateStore>>;
    /// Sends the selected lines of the output of an environment's programs. Returns after the last one, and
    /// with `follow` when the receiver is dropped.
    async fn read_log(
        &self,
        environment_id: &str,
        query: &LogQuery,
        lines: Sender<Vec<LogLine>>,
    ) -> Result<()>;
    /// Runs a command beside the program of an environment until the command or the program ends. Its
    /// processes are killed when the future is dropped.
    async fn run_command(
        &self,
        environment_id: &str,
        command: &CommandLease,
        streams: CommandStreams,
    ) -> Result<CommandResult>;
    /// Returns a report about every environment of this server.
    async fn reports(&self) -> Vec<EnvironmentReport>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_log_ends_with_a_notice() {
        let mut budget = LogBudget { bytes: 10, lines: 3, is_exhausted: false };
        assert_eq!(budget.admit(vec!["12345".to_owned()]), ["12345"]);
        let rest = budget.admit(vec!["1".to_owned(), "too long".to_owned(), "x".to_owned()]);
        assert_eq!(rest.len(), 2);
        assert!(rest[1].contains("log truncated"));
        assert!(budget.admit(vec!["x".to_owned()]).is_empty());
        let mut short = LogBudget { bytes: 10, lines: 1, is_exhausted: false };
        assert_eq!(short.admit(vec!["1".to_owned(), "2".to_owned()]).len(), 2);
    }
}
