//! Execution of one leased task: runs the driver, reports progress, and reports the result.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use api::project::{FinishTaskRequest, HeldTask, Lease, Observed, ReportProgressRequest, TaskKind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{
    client::TaskClient,
    driver::{Driver, ProgressReporter, ProgressUpdate, TaskOutcome},
    secrets::Secrets,
};

/// Maximum number of log lines in one progress report.
const REPORT_LINES_MAX: usize = 5_000;

/// Maximum length of a task's error message, in bytes.
const ERROR_BYTES_MAX: usize = 8_000;

/// Maximum length of a commit's subject, in bytes.
const SUBJECT_BYTES_MAX: usize = 500;

/// Maximum length of a commit's author, in bytes.
const AUTHOR_BYTES_MAX: usize = 200;

/// Delays after failed attempts to report a result, in milliseconds. Together they are longer than a restart
/// of the project service.
const FINISH_RETRY_DELAYS_MS: [u64; 5] = [100, 300, 1_000, 3_000, 5_000];

/// Delay before a progress report is repeated while the project service is unavailable.
const REPORT_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Leases of the tasks that this runner executes, by task id.
#[derive(Default)]
pub(crate) struct ActiveLeases(Mutex<HashMap<String, ActiveLease>>);

/// Lease of one task.
#[derive(Clone)]
struct ActiveLease {
    lease_id: String,
    environment_id: String,
    /// Cancelled when another runner has leased the task.
    lost: CancellationToken,
    /// Cancelled when a user has cancelled the task.
    cancelled: CancellationToken,
}

impl ActiveLeases {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, ActiveLease>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns all leases, for a heartbeat.
    pub(crate) fn list(&self) -> Vec<HeldTask> {
        let leases = self.lock();
        let tasks = leases.iter().map(|(task_id, lease)| HeldTask {
            task_id: task_id.clone(),
            lease_id: lease.lease_id.clone(),
        });
        tasks.collect()
    }

    /// Returns true while a task of an environment is being executed.
    pub(crate) fn has_task_of(&self, environment_id: &str) -> bool {
        self.lock().values().any(|it| it.environment_id == environment_id)
    }

    /// Aborts tasks whose lease is lost, and tasks that were cancelled. Unknown ids are ignored.
    pub(crate) fn apply_revocations(&self, lost: &[String], cancelled: &[String]) {
        let leases = self.lock();
        for lease in lost.iter().filter_map(|it| leases.get(it)) {
            lease.lost.cancel();
        }
        for lease in cancelled.iter().filter_map(|it| leases.get(it)) {
            lease.cancelled.cancel();
        }
    }
}

/// Executes leased tasks.
pub(crate) struct TaskWorker {
    pub(crate) client: Arc<dyn TaskClient>,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) leases: Arc<ActiveLeases>,
    pub(crate) runner: String,
}

/// End of a task's execution.
enum Completion {
    /// The driver returned a result.
    Finished(Result<TaskOutcome>),
    /// A user cancelled the task.
    Cancelled,
    /// Another runner has leased the task, or this runner is stopping and another one leases the task when
    /// the lease expires. No result is reported.
    LeaseLost,
}

impl TaskWorker {
    /// Executes a task, reporting its progress, and reports the result. Aborts as soon as the lease is lost.
    pub(crate) async fn run(&self, lease: Lease, stop: CancellationToken) {
        tracing::info!(
            task = lease.task_id,
            environment = lease.environment_id,
            kind = lease.kind().as_str_name(),
            "task started"
        );
        let active = ActiveLease {
            lease_id: lease.lease_id.clone(),
            environment_id: lease.environment_id.clone(),
            lost: CancellationToken::new(),
            cancelled: CancellationToken::new(),
        };
        self.leases.lock().insert(lease.task_id.clone(), active.clone());
        let (sender, mut updates) = mpsc::channel(64);
        let secrets = Secrets::of_lease(&lease);
        let reporter = ProgressReporter::new(sender, &lease);
        let cancellability = reporter.clone();
        let completion = tokio::select! {
            result = self.execute(&lease, reporter) => Completion::Finished(result),
            completion = self.report_until_revoked(
                &lease, &mut updates, &active, &cancellability,
            ) => completion,
            // The lease expires, and the next runner repeats the task.
            () = stop.cancelled() => Completion::LeaseLost,
        };
        // Updates that the driver has sent since the last report.
        if matches!(completion, Completion::Finished(_))
            && let Ok(last) = updates.try_recv()
        {
            let _ = self.report(&lease, merge_pending(last, &mut updates)).await;
        }
        self.finish(&lease, completion, &secrets).await;
        self.leases.lock().remove(&lease.task_id);
    }

    async fn execute(&self, lease: &Lease, report: ProgressReporter) -> Result<TaskOutcome> {
        let driver = &self.driver;
        match lease.kind() {
            TaskKind::Start => driver.start(lease, &report).await,
            TaskKind::Stop => driver.stop(lease, &report).await,
            TaskKind::Restart => driver.restart(lease, &report).await,
            TaskKind::UpdateModules => driver.update_modules(lease, &report).await,
            TaskKind::Pause => driver.pause(lease, &report).await,
            TaskKind::Resume => driver.resume(lease, &report).await,
            TaskKind::Sync => driver.observe(lease, &report).await,
            TaskKind::Clone => driver.copy(lease, &report).await,
            TaskKind::Provision => driver.provision(lease, &report).await,
            TaskKind::Destroy => {
                driver.destroy(&lease.environment_id).await.map(|()| TaskOutcome::default())
            }
            TaskKind::Deploy | TaskKind::Rollback | TaskKind::Promote | TaskKind::Unspecified => {
                driver.deploy(lease, &report).await
            }
        }
    }

    async fn finish(&self, lease: &Lease, completion: Completion, secrets: &Secrets) {
        let mut request = FinishTaskRequest {
            runner: self.runner.clone(),
            task_id: lease.task_id.clone(),
            lease_id: lease.lease_id.clone(),
            ..Default::default()
        };
        match completion {
            Completion::LeaseLost => {
                tracing::warn!(task = lease.task_id, "task aborted: lease lost");
                return;
            }
            Completion::Cancelled => {
                if let Err(error) = self.driver.abandon(lease).await {
                    let error = secrets.redact_block(&format!("{error:#}"), ERROR_BYTES_MAX);
                    tracing::warn!(
                        task = lease.task_id,
                        error,
                        "cancelled task not cleaned up completely"
                    );
                }
                request.observed = self.observed(lease).await.into();
                request.cancelled = true;
            }
            Completion::Finished(Ok(outcome)) => {
                request.observed = outcome.observed.unwrap_or_default().into();
                let commit_info = outcome.commit_info;
                request.commit_subject =
                    secrets.redact_line(&commit_info.subject, SUBJECT_BYTES_MAX);
                request.commit_author = secrets.redact_line(&commit_info.author, AUTHOR_BYTES_MAX);
                request.commit = outcome.commit;
                request.url = outcome.url;
            }
            Completion::Finished(Err(error)) => {
                let error = secrets.redact_block(&format!("{error:#}"), ERROR_BYTES_MAX);
                tracing::info!(task = lease.task_id, error, "task failed");
                // An empty message would report success.
                request.error_message =
                    if error.is_empty() { "unknown error".to_owned() } else { error };
                request.observed = self.observed(lease).await.into();
            }
        }
        self.report_result(request).await;
    }

    /// Returns the state of the environment after a task that did not complete.
    async fn observed(&self, lease: &Lease) -> Observed {
        self.driver.observed(&lease.environment_id).await.unwrap_or_default()
    }

    /// Reports a result, retrying while the project service is unavailable. If all attempts fail, the lease
    /// expires and the task is repeated.
    async fn report_result(&self, mut request: FinishTaskRequest) {
        for delay in FINISH_RETRY_DELAYS_MS {
            match self.client.finish(request.clone()).await {
                Ok(()) => return,
                Err(status)
                    if matches!(status.code(), Code::FailedPrecondition | Code::NotFound) =>
                {
                    tracing::warn!(
                        task = request.task_id,
                        "result discarded: another runner has the task"
                    );
                    return;
                }
                Err(status) => {
                    let error = status.message();
                    tracing::warn!(task = request.task_id, error, "reporting a result failed");
                    if status.code() == Code::InvalidArgument {
                        // Without a result the task would be repeated.
                        request = FinishTaskRequest {
                            error_message: format!("the result of the task was refused: {error}"),
                            runner: request.runner,
                            task_id: request.task_id,
                            lease_id: request.lease_id,
                            ..FinishTaskRequest::default()
                        };
                    }
                    tokio::time::sleep(Duration::from_millis(delay)).await;
                }
            }
        }
    }

    /// Reports progress, which renews the lease. Returns only when the task is cancelled, which is not
    /// possible after [`ProgressReporter::mark_irreversible`], or when its lease is lost.
    async fn report_until_revoked(
        &self,
        lease: &Lease,
        updates: &mut mpsc::Receiver<ProgressUpdate>,
        active: &ActiveLease,
        cancellability: &ProgressReporter,
    ) -> Completion {
        loop {
            let update = tokio::select! {
                update = updates.recv() => update,
                () = active.lost.cancelled() => return Completion::LeaseLost,
                () = active.cancelled.cancelled(), if !cancellability.is_irreversible() => {
                    return Completion::Cancelled;
                }
            };
            // All senders are dropped: the driver has returned, and `run` continues with its result.
            let Some(update) = update else { return std::future::pending().await };
            match self.report(lease, merge_pending(update, updates)).await {
                Ok(Continuation::Cancel) => active.cancelled.cancel(),
                Ok(Continuation::Continue) => {}
                Err(LeaseLost) => return Completion::LeaseLost,
            }
        }
    }

    /// Sends one progress report. Retries while the project service is unavailable, so that no log line is
    /// lost while it restarts.
    async fn report(
        &self,
        lease: &Lease,
        update: ProgressUpdate,
    ) -> Result<Continuation, LeaseLost> {
        let request = ReportProgressRequest {
            runner: self.runner.clone(),
            task_id: lease.task_id.clone(),
            lease_id: lease.lease_id.clone(),
            progress_percent: update.percent,
            current_step: update.step.to_owned(),
            log_lines: update.lines,
            steps_completed: (update.step_number - 1).max(0),
            total_steps: update.step_count,
        };
        loop {
            match self.client.report(request.clone()).await {
                Ok(true) => return Ok(Continuation::Cancel),
                Ok(false) => return Ok(Continuation::Continue),
                Err(status) => match status.code() {
                    Code::FailedPrecondition | Code::NotFound => return Err(LeaseLost),
                    Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                        tokio::time::sleep(REPORT_RETRY_DELAY).await;
                    }
                    // The report is dropped, because repeating it would fail again.
                    _ => {
                        tracing::warn!(error = status.message(), "progress report rejected");
                        return Ok(Continuation::Continue);
                    }
                },
            }
        }
    }
}

/// Response to a progress report.
enum Continuation {
    /// The task continues.
    Continue,
    /// A user has cancelled the task.
    Cancel,
}

/// Error: another runner has leased the task.
struct LeaseLost;

/// Merges an update with the updates in the queue, until it has [`REPORT_LINES_MAX`] lines or more.
fn merge_pending(
    mut update: ProgressUpdate,
    updates: &mut mpsc::Receiver<ProgressUpdate>,
) -> ProgressUpdate {
    while update.lines.len() < REPORT_LINES_MAX
        && let Ok(next) = updates.try_recv()
    {
        update.percent = update.percent.max(next.percent);
        update.step = if next.step.is_empty() { update.step } else { next.step };
        update.step_number = update.step_number.max(next.step_number);
        update.step_count = update.step_count.max(next.step_count);
        update.lines.extend(next.lines);
    }
    update
}
