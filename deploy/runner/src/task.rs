//! One task from its lease to its end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use api::project::{FinishTaskRequest, HeldTask, Lease, ReportProgressRequest, TaskKind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{
    client::TaskClient,
    driver::{Driver, ProgressReporter, ProgressUpdate, TaskOutcome},
    text::{LINE_BYTES_MAX, clean},
};

/// Lines of one report.
const REPORT_LINES_MAX: usize = 5_000;

/// Bytes of a task's error.
const ERROR_BYTES_MAX: usize = 8_000;

/// Bytes of a commit's subject.
const SUBJECT_BYTES_MAX: usize = 500;

/// Bytes of a commit's author.
const AUTHOR_BYTES_MAX: usize = 200;

/// Pauses between tries to report the end of a task, in milliseconds: the project service may be restarting.
const FINISH_RETRIES_MS: [u64; 5] = [100, 300, 1_000, 3_000, 5_000];

/// The tasks that this runner works on.
#[derive(Default)]
pub(crate) struct ActiveLeases(Mutex<HashMap<String, ActiveLease>>);

/// One of them.
#[derive(Clone)]
struct ActiveLease {
    lease_id: String,
    environment_id: String,
    /// Another runner has the task now.
    lost: CancellationToken,
    /// The task is to end.
    cancelled: CancellationToken,
}

impl ActiveLeases {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, ActiveLease>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, for a heartbeat.
    pub(crate) fn list(&self) -> Vec<HeldTask> {
        let held = |(task_id, lease): (&String, &ActiveLease)| HeldTask {
            task_id: task_id.clone(),
            lease_id: lease.lease_id.clone(),
        };
        self.lock().iter().map(held).collect()
    }

    /// True while a task of an environment is going on.
    pub(crate) fn is_working_on(&self, environment_id: &str) -> bool {
        self.lock().values().any(|it| it.environment_id == environment_id)
    }

    /// Ends work on tasks that other runners have, and on tasks that are cancelled.
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

/// Works on tasks.
pub(crate) struct TaskWorker {
    pub(crate) client: Arc<dyn TaskClient>,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) leases: Arc<ActiveLeases>,
    pub(crate) runner: String,
}

/// Why work on a task ended.
enum End {
    Finished(Result<TaskOutcome>),
    Cancelled,
    LeaseLost,
}

impl TaskWorker {
    /// Works on a task and reports its progress. Stops as soon as the lease is lost.
    pub(crate) async fn work(&self, lease: Lease, stop: CancellationToken) {
        tracing::info!(
            task = lease.task_id,
            environment = lease.environment_id,
            kind = lease.kind().as_str_name(),
            "a task starts"
        );
        let active = ActiveLease {
            lease_id: lease.lease_id.clone(),
            environment_id: lease.environment_id.clone(),
            lost: CancellationToken::new(),
            cancelled: CancellationToken::new(),
        };
        self.leases.lock().insert(lease.task_id.clone(), active.clone());
        let (sender, mut updates) = mpsc::channel(64);
        let reporter = ProgressReporter::new(sender);
        let observer = reporter.clone();
        let end = tokio::select! {
            result = self.perform(&lease, reporter) => End::Finished(result),
            end = self.report_until_revoked(&lease, &mut updates, &active, &observer) => end,
            // The lease expires, and the next runner starts over.
            () = stop.cancelled() => End::LeaseLost,
        };
        if let (End::Finished(_), Ok(last)) = (&end, updates.try_recv()) {
            let _ = self.report(&lease, merge_pending(last, &mut updates)).await;
        }
        self.finish(&lease, end).await;
        self.leases.lock().remove(&lease.task_id);
    }

    async fn perform(&self, lease: &Lease, report: ProgressReporter) -> Result<TaskOutcome> {
        let driver = &self.driver;
        match lease.kind() {
            TaskKind::Start => driver.start(lease, &report).await,
            TaskKind::Stop => driver.stop(lease, &report).await,
            TaskKind::Restart => {
                driver.stop(lease, &report).await?;
                driver.start(lease, &report).await
            }
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

    async fn finish(&self, lease: &Lease, end: End) {
        let mut request = FinishTaskRequest {
            runner: self.runner.clone(),
            task_id: lease.task_id.clone(),
            lease_id: lease.lease_id.clone(),
            ..Default::default()
        };
        match end {
            End::LeaseLost => {
                tracing::warn!(task = lease.task_id, "the lease of a task was lost");
                return;
            }
            End::Cancelled => {
                if let Err(error) = self.driver.abandon(lease).await {
                    let error = format!("{error:#}");
                    tracing::warn!(task = lease.task_id, error, "something was left behind");
                }
                request.cancelled = true;
            }
            End::Finished(Ok(outcome)) => {
                request.observed = outcome.observed.unwrap_or_default().into();
                let (subject, author) = (&outcome.commit_info.subject, &outcome.commit_info.author);
                request.commit_subject = clean(subject, SUBJECT_BYTES_MAX).replace('\n', " ");
                request.commit_author = clean(author, AUTHOR_BYTES_MAX).replace('\n', " ");
                (request.commit, request.url) = (outcome.commit, outcome.url);
            }
            End::Finished(Err(error)) => {
                let error = format!("{error:#}");
                tracing::info!(task = lease.task_id, error, "a task failed");
                request.error_message = clean(&error, ERROR_BYTES_MAX);
            }
        }
        self.report_result(request).await;
    }

    async fn report_result(&self, request: FinishTaskRequest) {
        for pause in FINISH_RETRIES_MS {
            match self.client.finish(request.clone()).await {
                Ok(()) => return,
                Err(status)
                    if matches!(status.code(), Code::FailedPrecondition | Code::NotFound) =>
                {
                    tracing::warn!(task = request.task_id, "another runner has the task");
                    return;
                }
                Err(status) => {
                    let message = status.message();
                    tracing::warn!(task = request.task_id, message, "a result was not accepted");
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            }
        }
    }

    /// Reports progress, which renews the lease. Returns when the work is to end, and only then.
    async fn report_until_revoked(
        &self,
        lease: &Lease,
        updates: &mut mpsc::Receiver<ProgressUpdate>,
        active: &ActiveLease,
        observer: &ProgressReporter,
    ) -> End {
        loop {
            let update = tokio::select! {
                update = updates.recv() => update,
                () = active.lost.cancelled() => return End::LeaseLost,
                () = active.cancelled.cancelled(), if !observer.is_settled() => return End::Cancelled,
            };
            // The work has ended; its own result counts.
            let Some(update) = update else { return std::future::pending().await };
            match self.report(lease, merge_pending(update, updates)).await {
                Ok(Continuation::Cancel) => active.cancelled.cancel(),
                Ok(Continuation::GoOn) => {}
                Err(LeaseLost) => return End::LeaseLost,
            }
        }
    }

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
            log_lines: update.lines.iter().map(|it| clean(it, LINE_BYTES_MAX)).collect(),
            steps_completed: (update.step_number - 1).max(0),
            total_steps: update.step_count,
        };
        loop {
            match self.client.report(request.clone()).await {
                Ok(true) => return Ok(Continuation::Cancel),
                Ok(false) => return Ok(Continuation::GoOn),
                Err(status) => match status.code() {
                    Code::FailedPrecondition | Code::NotFound => return Err(LeaseLost),
                    // No line is lost while the project service restarts.
                    Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    _ => {
                        tracing::warn!(message = status.message(), "progress was not accepted");
                        return Ok(Continuation::GoOn);
                    }
                },
            }
        }
    }
}

/// The answer to a progress report.
enum Continuation {
    GoOn,
    Cancel,
}

/// Another runner has the task.
struct LeaseLost;

/// An update with all that follow it already.
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
