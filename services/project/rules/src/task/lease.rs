//! Leases: a runner owns a task until the lease ends, and renews the lease with each report and heartbeat.

use api::{error::Reason, project as pb};
use chassis::{Changed, Refusal};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{Outcome, State, Task};
use crate::types::TaskId;

/// Duration of a lease. Another runner may lease the task after it.
pub const LEASE_DURATION: Duration = Duration::seconds(15);

/// Time for which the runner fetches a pushed commit again that the git server does not have yet: git servers
/// announce a push before all of their replicas have its commits.
pub const COMMIT_WAIT: Duration = Duration::seconds(30);

/// Number of leases after which a task whose last lease has ended is failed.
pub const ATTEMPTS_MAX: i32 = 3;

/// Task and lease by which a runner identifies itself as the owner of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRef {
    pub task_id: TaskId,
    pub lease_id: Uuid,
}

/// The runner has no lease of the task.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease of this task has ended, or another runner has it; stop working on the task")]
pub struct LeaseLost;

impl Refusal for LeaseLost {
    fn reason(&self) -> Reason {
        Reason::LeaseLost
    }
}

/// Result of leasing a task.
pub enum LeaseOutcome {
    /// A deployment was leased for the first time; this is an event.
    DeploymentStarted(Changed<Task>),
    /// Another task was leased, or a task was leased again after a lease ended. Without an event: other
    /// tasks have events when they are enqueued and when they end.
    Leased(Task),
    /// The task is finished instead: it was cancelled, or had too many leases.
    Finished(Task, Outcome),
}

/// Progress of a task, as a runner reports it.
#[derive(Clone, Debug)]
pub struct Progress {
    pub percent: i32,
    /// Name of the current step; empty: unchanged.
    pub current_step: String,
    pub steps_completed: i32,
    pub total_steps: i32,
}

impl Task {
    /// True if a runner may lease the task: it is queued, or its lease has ended.
    pub fn is_leasable(&self, now: OffsetDateTime) -> bool {
        self.state == State::Queued || self.lease_ends_at.is_some_and(|it| it <= now)
    }

    /// Leases a task to a runner (PE-36).
    pub fn lease(mut self, now: OffsetDateTime) -> LeaseOutcome {
        if self.cancel_requested {
            self.finish(&Outcome::Cancelled, now);
            return LeaseOutcome::Finished(self, Outcome::Cancelled);
        }
        if self.attempts >= ATTEMPTS_MAX {
            let error = format!(
                "worker lost: {ATTEMPTS_MAX} runners stopped reporting while they worked on the task"
            );
            let (task, outcome) = self.fail(&error, now);
            return LeaseOutcome::Finished(task, outcome);
        }
        let before = Some((&self).into());
        let is_first = self.state == State::Queued;
        self.state = State::Running;
        self.attempts += 1;
        self.started_at = Some(self.started_at.unwrap_or(now));
        self.lease_id = Some(chassis::id::new());
        self.lease_ends_at = Some(now + LEASE_DURATION);
        if !is_first || !self.kind.is_deployment() {
            return LeaseOutcome::Leased(self);
        }
        let event = pb::DeploymentStarted { before, after: Some((&self).into()) };
        let target = self.event_target();
        LeaseOutcome::DeploymentStarted(Changed::new(self, &event, target))
    }

    /// Stores reported progress and renews the lease. Progress never decreases, and is 100 only at the end
    /// (PE-35).
    pub fn report(
        mut self,
        lease_id: Uuid,
        progress: Progress,
        now: OffsetDateTime,
    ) -> Result<Self, LeaseLost> {
        self.require_lease(lease_id, now)?;
        self.progress_percent = self.progress_percent.max(progress.percent.clamp(0, 99));
        if !progress.current_step.is_empty() {
            self.current_step = progress.current_step;
        }
        self.steps_completed = self.steps_completed.max(progress.steps_completed);
        self.total_steps = self.total_steps.max(progress.total_steps);
        self.lease_ends_at = Some(now + LEASE_DURATION);
        Ok(self)
    }

    /// Finishes the task for the runner that has leased it.
    pub fn finish_leased(
        mut self,
        lease_id: Uuid,
        outcome: &Outcome,
        now: OffsetDateTime,
    ) -> Result<Self, LeaseLost> {
        self.require_lease(lease_id, now)?;
        self.finish(outcome, now);
        Ok(self)
    }

    fn require_lease(&self, lease_id: Uuid, now: OffsetDateTime) -> Result<(), LeaseLost> {
        let is_leased = self.state == State::Running
            && self.lease_id == Some(lease_id)
            && self.lease_ends_at.is_some_and(|it| it > now);
        if is_leased { Ok(()) } else { Err(LeaseLost) }
    }
}
