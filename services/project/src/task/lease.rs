//! Who works on a task: a runner holds it for a while, and as long as it reports.

use api::{error::Reason, project as pb};
use chassis::{Changed, Refusal};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{Outcome, State, Task};

/// A runner reports more often than this, or its task goes to another.
pub(crate) const LEASE: Duration = Duration::seconds(15);

/// After so many runners went silent the task has failed.
pub(crate) const ATTEMPTS_MAX: i32 = 3;

/// A runner must stop.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease of this task ended, or another runner holds it; stop working on it")]
pub(crate) struct LeaseLost;

impl Refusal for LeaseLost {
    fn reason(&self) -> Reason {
        Reason::LeaseLost
    }
}

/// What becomes of a task that a runner asks for.
pub(crate) enum Leased {
    /// The first runner takes a deployment; the log tells.
    First(Changed<Task>),
    /// Taken, without a word: no deployment, or another runner takes over from one that went silent.
    Again(Task),
    /// It ends instead: too many runners went silent, or somebody cancelled it meanwhile.
    Over(Task, Outcome),
}

/// How far a task is.
pub(crate) struct Progress {
    pub(crate) percent: i32,
    pub(crate) step: String,
    pub(crate) steps: (i32, i32),
}

impl Task {
    /// Whether a runner may take it.
    pub(crate) fn waits(&self, now: OffsetDateTime) -> bool {
        self.state == State::Queued || self.lease_ends_at.is_some_and(|it| it <= now)
    }

    /// A waiting task, or one whose runner went silent, goes to a runner (PE-36).
    pub(crate) fn lease(mut self, now: OffsetDateTime) -> Leased {
        if self.cancel_requested {
            self.end(&Outcome::Cancelled, now);
            return Leased::Over(self, Outcome::Cancelled);
        }
        if self.attempts >= ATTEMPTS_MAX {
            let error =
                format!("worker lost: {ATTEMPTS_MAX} runners went silent while they worked on it");
            let outcome = Outcome::Failed { error };
            self.end(&outcome, now);
            return Leased::Over(self, outcome);
        }
        let before = Some((&self).into());
        let first = self.state == State::Queued;
        self.state = State::Running;
        self.attempts += 1;
        self.started_at = Some(self.started_at.unwrap_or(now));
        (self.lease_id, self.lease_ends_at) = (Some(chassis::id::new()), Some(now + LEASE));
        // Other things are told when they are asked for, and when they are done.
        if !first || !self.kind.is_deployment() {
            return Leased::Again(self);
        }
        let event = pb::DeploymentStarted { before, after: Some((&self).into()) };
        let about = self.about();
        Leased::First(Changed::new(self, &event, about))
    }

    /// Progress never goes back, and is 100 only at the end (PE-35).
    pub(crate) fn report(
        mut self,
        lease_id: Uuid,
        progress: Progress,
        now: OffsetDateTime,
    ) -> Result<Self, LeaseLost> {
        self.held_by(lease_id, now)?;
        self.progress_percent = self.progress_percent.max(progress.percent.clamp(0, 99));
        if !progress.step.is_empty() {
            self.current_step = progress.step;
        }
        self.steps_completed = self.steps_completed.max(progress.steps.0);
        self.total_steps = self.total_steps.max(progress.steps.1);
        self.lease_ends_at = Some(now + LEASE);
        Ok(self)
    }

    /// Ends the task.
    pub(crate) fn finish(
        mut self,
        lease_id: Uuid,
        outcome: &Outcome,
        now: OffsetDateTime,
    ) -> Result<Self, LeaseLost> {
        self.held_by(lease_id, now)?;
        self.end(outcome, now);
        Ok(self)
    }

    /// Ends a task that nobody wants any more, whoever works on it.
    pub(crate) fn withdraw(mut self, error: &str, now: OffsetDateTime) -> (Self, Outcome) {
        let outcome = Outcome::Failed { error: error.to_owned() };
        self.end(&outcome, now);
        (self, outcome)
    }

    fn held_by(&self, lease_id: Uuid, now: OffsetDateTime) -> Result<(), LeaseLost> {
        let held = self.lease_id == Some(lease_id) && self.lease_ends_at.is_some_and(|it| it > now);
        if held && self.state == State::Running { Ok(()) } else { Err(LeaseLost) }
    }
}
