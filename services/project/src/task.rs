//! Tasks: what a runner does for an environment. A task only moves forward (PE-34).

pub(crate) mod rpc;
pub(crate) mod runner;
pub(crate) mod store;
mod wire;

use api::{error::Reason, project as pb};
use chassis::{About, Changed, OrgId, ProjectId, Refusal, UserId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::environment::{Environment, EnvironmentId};

chassis::id!(
    /// Identifies a task.
    TaskId,
    "task"
);

/// A runner reports more often than this, or its task goes to another.
pub(crate) const LEASE: Duration = Duration::seconds(15);

/// After so many runners went silent the task has failed.
const ATTEMPTS_MAX: i32 = 3;

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum State {
    Queued,
    Running,
    Completed,
    Failed,
}

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum Kind {
    Deploy,
    Stop,
}

/// A unit of work.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: ProjectId,
    pub(crate) environment_id: EnvironmentId,
    pub(crate) kind: Kind,
    pub(crate) state: State,
    pub(crate) progress_percent: i32,
    pub(crate) current_step: String,
    pub(crate) error_message: String,
    pub(crate) triggered_by: UserId,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) started_at: Option<OffsetDateTime>,
    pub(crate) completed_at: Option<OffsetDateTime>,
    pub(crate) lease_id: Option<Uuid>,
    pub(crate) lease_ends_at: Option<OffsetDateTime>,
    pub(crate) attempts: i32,
}

/// How a task ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It serves.
    Completed {
        commit: String,
        url: String,
    },
    Failed {
        error: String,
    },
}

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
    /// The first runner takes it; the log tells.
    First(Changed<Task>),
    /// Another runner takes over from one that went silent.
    Again(Task),
    /// Too many runners went silent.
    GivenUp(Task, Outcome),
}

impl Task {
    pub(crate) fn queue(
        environment: &Environment,
        kind: Kind,
        triggered_by: UserId,
        now: OffsetDateTime,
    ) -> Self {
        Self {
            id: TaskId::new(),
            org_id: environment.org_id,
            project_id: environment.project_id,
            environment_id: environment.id,
            kind,
            state: State::Queued,
            progress_percent: 0,
            current_step: String::new(),
            error_message: String::new(),
            triggered_by,
            created_at: now,
            started_at: None,
            completed_at: None,
            lease_id: None,
            lease_ends_at: None,
            attempts: 0,
        }
    }

    /// Whether a runner may take it.
    pub(crate) fn waits(&self, now: OffsetDateTime) -> bool {
        self.state == State::Queued || self.lease_ends_at.is_some_and(|it| it <= now)
    }

    /// A waiting task, or one whose runner went silent, goes to a runner (PE-36).
    pub(crate) fn lease(mut self, now: OffsetDateTime) -> Leased {
        if self.attempts >= ATTEMPTS_MAX {
            let error = format!("{ATTEMPTS_MAX} runners went silent while they worked on it");
            let outcome = Outcome::Failed { error };
            self.end(&outcome, now);
            return Leased::GivenUp(self, outcome);
        }
        let before = Some((&self).into());
        let first = self.state == State::Queued;
        self.state = State::Running;
        self.attempts += 1;
        self.started_at = Some(self.started_at.unwrap_or(now));
        (self.lease_id, self.lease_ends_at) = (Some(chassis::id::new()), Some(now + LEASE));
        // Stopping is told when it is asked for, and when it is done.
        if !first || self.kind == Kind::Stop {
            return Leased::Again(self);
        }
        let event = pb::DeploymentStarted { before, after: Some((&self).into()) };
        let about = About::object("task", self.id, "").of(self.org_id).in_project(self.project_id);
        Leased::First(Changed::new(self, &event, about))
    }

    /// Progress never goes back, and is 100 only at the end (PE-35).
    pub(crate) fn report(
        mut self,
        lease_id: Uuid,
        percent: i32,
        step: String,
        now: OffsetDateTime,
    ) -> Result<Self, LeaseLost> {
        self.held_by(lease_id, now)?;
        self.progress_percent = self.progress_percent.max(percent.clamp(0, 99));
        if !step.is_empty() {
            self.current_step = step;
        }
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
    pub(crate) fn cancel(mut self, error: &str, now: OffsetDateTime) -> (Self, Outcome) {
        let outcome = Outcome::Failed { error: error.to_owned() };
        self.end(&outcome, now);
        (self, outcome)
    }

    fn end(&mut self, outcome: &Outcome, now: OffsetDateTime) {
        self.completed_at = Some(now);
        (self.lease_id, self.lease_ends_at) = (None, None);
        match outcome {
            Outcome::Completed { .. } => {
                (self.state, self.progress_percent) = (State::Completed, 100);
            }
            Outcome::Failed { error } => {
                (self.state, self.error_message) = (State::Failed, error.clone());
            }
        }
    }

    fn held_by(&self, lease_id: Uuid, now: OffsetDateTime) -> Result<(), LeaseLost> {
        let held = self.lease_id == Some(lease_id) && self.lease_ends_at.is_some_and(|it| it > now);
        if held && self.state == State::Running { Ok(()) } else { Err(LeaseLost) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued() -> Task {
        Task {
            id: TaskId(Uuid::nil()),
            org_id: OrgId(Uuid::nil()),
            project_id: ProjectId(Uuid::nil()),
            environment_id: EnvironmentId(Uuid::nil()),
            kind: Kind::Deploy,
            state: State::Queued,
            progress_percent: 0,
            current_step: String::new(),
            error_message: String::new(),
            triggered_by: UserId(Uuid::nil()),
            created_at: OffsetDateTime::UNIX_EPOCH,
            started_at: None,
            completed_at: None,
            lease_id: None,
            lease_ends_at: None,
            attempts: 0,
        }
    }

    fn running(now: OffsetDateTime) -> Task {
        match queued().lease(now) {
            Leased::First(changed) => changed.state().clone(),
            _ => panic!("a queued task starts"),
        }
    }

    /// PE-34, PE-35.
    #[test]
    fn progress_goes_forward_and_ends_at_a_hundred() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let task = running(now);
        let lease = task.lease_id.unwrap();
        let task = task.report(lease, 60, "build".to_owned(), now).unwrap();
        let task = task.report(lease, 30, String::new(), now).unwrap();
        assert_eq!((task.progress_percent, task.current_step.as_str()), (60, "build"));
        let done = Outcome::Completed { commit: "abc".to_owned(), url: String::new() };
        let task = task.finish(lease, &done, now).unwrap();
        assert_eq!((task.state, task.progress_percent), (State::Completed, 100));
        assert_eq!(task.finish(lease, &done, now).unwrap_err(), LeaseLost);
    }

    /// PE-36.
    #[test]
    fn a_silent_runner_loses_its_task_and_the_third_ends_it() {
        let mut now = OffsetDateTime::UNIX_EPOCH;
        let mut task = running(now);
        let first = task.lease_id.unwrap();
        for _ in 1..ATTEMPTS_MAX {
            now += LEASE;
            let Leased::Again(again) = task.lease(now) else { panic!("another runner takes over") };
            task = again;
        }
        assert_eq!(task.clone().report(first, 1, String::new(), now).unwrap_err(), LeaseLost);
        let Leased::GivenUp(task, _) = task.lease(now + LEASE) else { panic!("it ends") };
        assert_eq!(task.state, State::Failed);
    }
}
