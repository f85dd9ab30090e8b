//! One task from its lease to its end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use api::project::{FinishTaskRequest, HeldTask, Lease, ReportProgressRequest, TaskKind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{
    desk::Desk,
    driver::{Done, Driver, Progress, Reporter},
};

/// The tasks that this runner works on.
#[derive(Default)]
pub(crate) struct Held(Mutex<HashMap<String, Hold>>);

/// One of them.
#[derive(Clone)]
struct Hold {
    lease_id: String,
    environment_id: String,
    lost: CancellationToken,
    cancelled: CancellationToken,
}

impl Held {
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<String, Hold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the project service is told of them.
    pub(crate) fn list(&self) -> Vec<HeldTask> {
        let task = |(task_id, it): (&String, &Hold)| HeldTask {
            task_id: task_id.clone(),
            lease_id: it.lease_id.clone(),
        };
        self.all().iter().map(task).collect()
    }

    /// Whether a task is going on in an environment.
    pub(crate) fn is_busy(&self, environment_id: &str) -> bool {
        self.all().values().any(|it| it.environment_id == environment_id)
    }

    /// Tasks that others work on now, and tasks that are to end.
    pub(crate) fn heed(&self, lost: &[String], cancelled: &[String]) {
        let all = self.all();
        for it in lost.iter().filter_map(|it| all.get(it)) {
            it.lost.cancel();
        }
        for it in cancelled.iter().filter_map(|it| all.get(it)) {
            it.cancelled.cancel();
        }
    }
}

/// What works on tasks.
pub(crate) struct Job {
    pub(crate) desk: Arc<dyn Desk>,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) held: Arc<Held>,
    pub(crate) runner: String,
}

/// Why work on a task ended.
enum End {
    Worked(Result<Done>),
    Cancelled,
    Lost,
}

impl Job {
    /// Works, reporting all the while; gives the work up as soon as the lease is lost.
    pub(crate) async fn work(&self, lease: Lease, stop: CancellationToken) {
        tracing::info!(
            task = lease.task_id,
            environment = lease.environment_id,
            kind = lease.kind().as_str_name(),
            "a task starts"
        );
        let hold = Hold {
            lease_id: lease.lease_id.clone(),
            environment_id: lease.environment_id.clone(),
            lost: CancellationToken::new(),
            cancelled: CancellationToken::new(),
        };
        self.held.all().insert(lease.task_id.clone(), hold.clone());
        let (to, mut reports) = mpsc::channel(64);
        let report = Reporter::new(to);
        let settled = report.clone();
        let end = tokio::select! {
            done = self.perform(&lease, report) => End::Worked(done),
            end = self.keep(&lease, &mut reports, &hold, &settled) => end,
            // The lease runs out, and the next runner starts over.
            () = stop.cancelled() => End::Lost,
        };
        if let (End::Worked(_), Ok(last)) = (&end, reports.try_recv()) {
            let _ = self.report(&lease, gather(last, &mut reports)).await;
        }
        self.end(&lease, end).await;
        self.held.all().remove(&lease.task_id);
    }

    async fn perform(&self, lease: &Lease, report: Reporter) -> Result<Done> {
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
            TaskKind::Sync => driver.look(lease, &report).await,
            TaskKind::Clone => driver.copy(lease, &report).await,
            TaskKind::Provision => driver.provision(lease, &report).await,
            TaskKind::Destroy => {
                driver.destroy(&lease.environment_id).await.map(|()| Done::default())
            }
            TaskKind::Deploy | TaskKind::Rollback | TaskKind::Promote | TaskKind::Unspecified => {
                driver.deploy(lease, &report).await
            }
        }
    }

    async fn end(&self, lease: &Lease, end: End) {
        let mut finish = FinishTaskRequest {
            runner: self.runner.clone(),
            task_id: lease.task_id.clone(),
            lease_id: lease.lease_id.clone(),
            ..Default::default()
        };
        match end {
            End::Lost => {
                tracing::warn!(task = lease.task_id, "the task is no longer this runner's");
                return;
            }
            End::Cancelled => {
                if let Err(error) = self.driver.abandon(lease).await {
                    tracing::warn!(task = lease.task_id, %error, "something was left behind");
                }
                finish.cancelled = true;
            }
            End::Worked(Ok(it)) => {
                finish.observed = it.observed.unwrap_or_default().into();
                (finish.commit, finish.url) = (it.commit, it.url);
                finish.commit_subject = printable(&it.about.0, 500).replace('\n', " ");
                finish.commit_author = printable(&it.about.1, 200).replace('\n', " ");
            }
            End::Worked(Err(error)) => {
                tracing::info!(task = lease.task_id, error = format!("{error:#}"), "a task failed");
                finish.error_message = printable(&format!("{error:#}"), 8_000);
            }
        }
        self.hand_in(finish).await;
    }

    /// The end of a task is worth some tries: the project service may be starting again.
    async fn hand_in(&self, finish: FinishTaskRequest) {
        for pause in [100, 300, 1_000, 3_000, 5_000] {
            match self.desk.finish(finish.clone()).await {
                Ok(()) => return,
                Err(status)
                    if matches!(status.code(), Code::FailedPrecondition | Code::NotFound) =>
                {
                    tracing::warn!(task = finish.task_id, "another runner has the task");
                    return;
                }
                Err(status) => {
                    let message = status.message();
                    tracing::warn!(task = finish.task_id, message, "the end was not reported");
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            }
        }
    }

    /// Reports progress and renews the lease. Returns when the work is to end, and only then.
    async fn keep(
        &self,
        lease: &Lease,
        reports: &mut mpsc::Receiver<Progress>,
        hold: &Hold,
        settled: &Reporter,
    ) -> End {
        loop {
            let progress = tokio::select! {
                it = reports.recv() => it,
                () = hold.lost.cancelled() => return End::Lost,
                () = hold.cancelled.cancelled(), if !settled.is_settled() => return End::Cancelled,
            };
            // The work has ended and will say so itself.
            let Some(progress) = progress else { return std::future::pending().await };
            match self.report(lease, gather(progress, reports)).await {
                Ok(true) => hold.cancelled.cancel(),
                Ok(false) => {}
                Err(()) => return End::Lost,
            }
        }
    }

    /// Answers whether the task is to end; fails if the lease was lost.
    async fn report(&self, lease: &Lease, it: Progress) -> Result<bool, ()> {
        let report = ReportProgressRequest {
            runner: self.runner.clone(),
            task_id: lease.task_id.clone(),
            lease_id: lease.lease_id.clone(),
            progress_percent: it.percent,
            current_step: it.step.to_owned(),
            log_lines: it.lines.iter().map(|it| printable(it, 4_096)).collect(),
            steps_completed: (it.steps.0 - 1).max(0),
            total_steps: it.steps.1,
        };
        loop {
            match self.desk.report(report.clone()).await {
                Ok(cancel) => return Ok(cancel),
                Err(status) => match status.code() {
                    Code::FailedPrecondition | Code::NotFound => return Err(()),
                    // The log loses nothing while the project service starts again.
                    Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    _ => {
                        tracing::warn!(message = status.message(), "progress was not reported");
                        return Ok(false);
                    }
                },
            }
        }
    }
}

/// What was said meanwhile goes along.
fn gather(mut it: Progress, reports: &mut mpsc::Receiver<Progress>) -> Progress {
    while it.lines.len() < 5_000
        && let Ok(more) = reports.try_recv()
    {
        it.percent = it.percent.max(more.percent);
        it.step = if more.step.is_empty() { it.step } else { more.step };
        it.steps = it.steps.max(more.steps);
        it.lines.extend(more.lines);
    }
    it
}

/// Text that the contract accepts: no control characters, and not too long.
fn printable(text: &str, max: usize) -> String {
    let mut left = max;
    let fits = |it: &char| {
        left = left.saturating_sub(it.len_utf8());
        left > 0
    };
    let plain = text.chars().map(|it| if is_plain(it) { it } else { ' ' });
    plain.take_while(fits).collect()
}

fn is_plain(it: char) -> bool {
    // What Unicode calls "other": control, format, surrogate, private use, unassigned. The first two matter.
    let others = [
        ('\u{ad}', '\u{ad}'),
        ('\u{61c}', '\u{61c}'),
        ('\u{180e}', '\u{180e}'),
        ('\u{200b}', '\u{200f}'),
        ('\u{202a}', '\u{202e}'),
        ('\u{2060}', '\u{206f}'),
        ('\u{e000}', '\u{f8ff}'),
        ('\u{feff}', '\u{feff}'),
        ('\u{fff0}', '\u{fffb}'),
        ('\u{e0000}', '\u{10ffff}'),
    ];
    let format = others.iter().any(|(from, to)| (from..=to).contains(&&it));
    it == '\n' || (!it.is_control() && !format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_made_fit_for_the_contract() {
        assert_eq!(printable("a\u{7}b\nc\u{202e}d", 100), "a b\nc d");
        assert_eq!(printable("äöü", 5), "äö");
    }
}
