//! Lifecycle of environments: changes of state when a task is enqueued or finished, when the platform
//! suspends an environment, and when a server reports another state.

use api::project as pb;
use chassis::{Changed, UserId};
use time::OffsetDateTime;

use super::{
    Environment, PauseReason, Refused, State,
    report::Report,
    state_machine::{InvalidState, Operation},
    task_event::TaskTransition,
};
use crate::{
    task::{Cause, Kind, Observed, Outcome, Task, TaskOrigin, TaskResult, TaskSpec},
    types::TaskId,
};

/// Refusal of an operation on an environment.
#[derive(Debug, thiserror::Error)]
pub enum NotAllowed {
    #[error(transparent)]
    TaskInProgress(#[from] Refused),
    #[error(transparent)]
    InvalidState(#[from] InvalidState),
}

impl From<NotAllowed> for chassis::Error {
    fn from(it: NotAllowed) -> Self {
        match it {
            NotAllowed::TaskInProgress(refused) => refused.into(),
            NotAllowed::InvalidState(refused) => refused.into(),
        }
    }
}

impl Environment {
    /// Refuses an operation while a task is active (PE-25), or if the state does not allow it. Returns the
    /// state during the operation.
    pub fn require_allowed(
        &self,
        operation: Operation,
        active: Option<&Task>,
    ) -> Result<State, NotAllowed> {
        if let Some(task) = active {
            return Err(Refused::TaskInProgress(task.id.into()).into());
        }
        Ok(self.condition().transition(operation)?)
    }

    /// Enqueues a task, if no other task is active and the state allows it (PE-24).
    pub fn enqueue_task(
        mut self,
        spec: TaskSpec,
        origin: TaskOrigin,
        active: Option<&Task>,
        now: OffsetDateTime,
    ) -> Result<Changed<(Self, Task)>, NotAllowed> {
        let next = self.require_allowed(Operation::of_task(spec.kind), active)?;
        let before = Some((&self).into());
        let task = self.new_task(spec, origin, now);
        self.stable_state = self.state;
        self.set_state(next, now);
        Ok(self.with_task_event(before, task, TaskTransition::Queued))
    }

    /// Enqueues the task that clones another environment into this one, which was just created.
    pub fn enqueue_first_clone(
        mut self,
        spec: TaskSpec,
        origin: TaskOrigin,
        now: OffsetDateTime,
    ) -> Changed<(Self, Task)> {
        let before = Some((&self).into());
        let task = self.new_task(spec, origin, now);
        self.set_state(State::Cloning, now);
        self.with_task_event(before, task, TaskTransition::Queued)
    }

    /// Enqueues the stop of the program because the organization was deleted, also if the platform has
    /// suspended the environment. `None`: no program can be running.
    pub fn enqueue_stop(
        mut self,
        user_id: UserId,
        now: OffsetDateTime,
    ) -> Option<Changed<(Self, Task)>> {
        // After a failed deployment (ERROR) the program of an earlier one may still run.
        if !matches!(self.state, State::Running | State::Error | State::Paused) {
            return None;
        }
        let before = Some((&self).into());
        let origin = TaskOrigin { user_id, cause: Cause::System };
        let task = self.new_task(TaskSpec::new(Kind::Stop), origin, now);
        self.stable_state = self.state;
        self.updated_at = now;
        Some(self.with_task_event(before, task, TaskTransition::Queued))
    }

    /// Applies the end of a task.
    pub fn finish_task(
        mut self,
        task: Task,
        outcome: Outcome,
        now: OffsetDateTime,
    ) -> Changed<(Self, Task)> {
        let before = Some((&self).into());
        self.last_task_state = Some(task.state);
        let transition = match outcome {
            Outcome::Completed(result) => {
                self.apply_result(&task, result, now);
                TaskTransition::Completed
            }
            // The add-ons are missing, but the program is unchanged.
            Outcome::Failed { .. } if task.kind == Kind::Provision => TaskTransition::Failed,
            Outcome::Failed { error } => {
                self.set_state(State::Error, now);
                self.last_error = error;
                TaskTransition::Failed
            }
            Outcome::Cancelled => {
                if self.state != State::Paused {
                    self.set_state(self.stable_state, now);
                }
                TaskTransition::Cancelled
            }
        };
        self.with_task_event(before, task, transition)
    }

    fn apply_result(&mut self, task: &Task, result: TaskResult, now: OffsetDateTime) {
        let TaskResult { commit, url, observed } = result;
        let next = match task.kind {
            Kind::Deploy | Kind::Promote => {
                self.set_release(task.id, commit);
                State::Running
            }
            Kind::Rollback => {
                self.set_release(task.deployment_id.unwrap_or(task.id), commit);
                State::Running
            }
            Kind::Clone => {
                self.set_release(task.id, commit);
                if url.is_empty() { State::Stopped } else { State::Running }
            }
            Kind::Start | Kind::Restart | Kind::Resume | Kind::UpdateModules => State::Running,
            Kind::Stop => State::Stopped,
            Kind::Pause => State::Paused,
            Kind::Destroy => State::Deleted,
            Kind::Sync => self.observed_state(observed),
            // The program is unchanged.
            Kind::Provision => return,
        };
        self.observed = match next {
            State::Running => Some(Observed::Running),
            State::Stopped => Some(Observed::Stopped),
            State::Paused => observed.or(Some(Observed::Paused)),
            _ => observed,
        };
        match next {
            State::Stopped | State::Deleted => self.url = String::new(),
            State::Running if !url.is_empty() => self.url = url,
            _ => {}
        }
        if next != State::Error {
            self.last_error = String::new();
        } else if self.last_error.is_empty() {
            "the program should be running, but is not".clone_into(&mut self.last_error);
        }
        self.set_state(next, now);
    }

    fn set_release(&mut self, deployment_id: TaskId, commit: String) {
        self.deployment_id = Some(deployment_id);
        self.commit = commit;
    }

    /// State after a sync. An environment that the platform has suspended stays PAUSED.
    fn observed_state(&self, observed: Option<Observed>) -> State {
        let is_suspended = self.pause_reason.is_some_and(|it| it != PauseReason::User);
        match observed {
            _ if is_suspended => State::Paused,
            Some(Observed::Running) => State::Running,
            Some(Observed::Paused) => State::Paused,
            Some(Observed::Stopped) => State::Stopped,
            Some(Observed::Failed) | None => State::Error,
        }
    }

    /// Suspends a running environment, or one that a person has paused, for the platform. `None`: the
    /// environment is in another state, or a task is active.
    pub fn suspend(
        mut self,
        reason: PauseReason,
        active: Option<&Task>,
        now: OffsetDateTime,
    ) -> Option<Changed<Self>> {
        self.require_allowed(Operation::Suspend, active).ok()?;
        let before = Some((&self).into());
        self.resumes = self.serves();
        self.set_state(State::Paused, now);
        self.pause_reason = Some(reason);
        let event = pb::EnvironmentSuspended { before, after: Some((&self).into()) };
        let target = self.event_target();
        Some(Changed::new(self, &event, target))
    }

    /// Lifts the suspension: the environment becomes one that a person has paused, so that it can be resumed.
    pub fn lift_suspension(mut self, now: OffsetDateTime) -> Changed<Self> {
        let before = Some((&self).into());
        self.pause_reason = Some(PauseReason::User);
        self.updated_at = now;
        let event = pb::EnvironmentSuspensionLifted { before, after: Some((&self).into()) };
        let target = self.event_target();
        Changed::new(self, &event, target)
    }

    /// Corrects the state after a report, while no task is active: the program of a RUNNING environment ended
    /// by itself, in ERROR another program runs than was last seen, or the server has restarted the program
    /// at another URL. `None`: there is nothing to correct; all other changes of state are made by tasks.
    pub fn correct_state(mut self, report: &Report, now: OffsetDateTime) -> Option<Changed<Self>> {
        let observed = report.observed?;
        let has_failed = observed == Observed::Failed && self.program() != Some(observed);
        let is_observable = self.state == State::Error && self.deployment_id.is_some();
        let has_changed = is_observable && self.observed != Some(observed);
        let is_current = report.release == self.deployment_id.map(|it| it.0);
        let has_moved = self.serves() && is_current && report.has_moved() && report.url != self.url;
        let before = Some((&self).into());
        let detail = if has_failed && (self.state == State::Running || is_observable) {
            self.set_state(State::Error, now);
            let is_unknown = report.detail.is_empty();
            let detail =
                if is_unknown { "the process of the program ended" } else { &report.detail };
            detail.clone_into(&mut self.last_error);
            detail.to_owned()
        } else if has_changed {
            "the server reports another state of the program".to_owned()
        } else if has_moved {
            self.url.clone_from(&report.url);
            "the server has restarted the program at another URL".to_owned()
        } else {
            return None;
        };
        self.observed = Some(observed);
        self.updated_at = now;
        let after = Some((&self).into());
        let event = pb::EnvironmentStateCorrected { before, after, detail };
        let target = self.event_target();
        Some(Changed::new(self, &event, target))
    }

    /// Deletes an environment whose server is unreachable. Its files and processes may remain there.
    pub fn delete_unreachable(self, now: OffsetDateTime) -> Changed<Self> {
        self.delete_without_task(true, now)
    }

    /// Deletes an environment that was never deployed to a server.
    pub fn delete_undeployed(self, now: OffsetDateTime) -> Changed<Self> {
        self.delete_without_task(false, now)
    }

    fn delete_without_task(mut self, leaked: bool, now: OffsetDateTime) -> Changed<Self> {
        let before = Some((&self).into());
        self.set_state(State::Deleted, now);
        let event = pb::EnvironmentDestroyed { before, leaked, task: None };
        let target = self.event_target();
        Changed::new(self, &event, target)
    }

    /// Sets the state, and the reason of a pause: a person, unless the environment was already paused.
    fn set_state(&mut self, next: State, now: OffsetDateTime) {
        self.state = next;
        self.updated_at = now;
        self.pause_reason = match next {
            State::Paused => Some(self.pause_reason.unwrap_or(PauseReason::User)),
            _ => None,
        };
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
pub(crate) mod tests;
