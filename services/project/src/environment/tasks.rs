//! What tasks do to their environment: when they are queued, and when they end.

use api::project as pb;
use chassis::{Changed, UserId};
use time::OffsetDateTime;

use super::{
    Environment, PauseReason, Refused, State,
    machine::{InvalidState, Operation},
};
use crate::task::{Cause, Kind, Observed, Order, Outcome, Task, TaskId};

/// Why a task is not queued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotQueued {
    #[error(transparent)]
    Busy(#[from] Refused),
    #[error(transparent)]
    State(#[from] InvalidState),
}

impl From<NotQueued> for chassis::Error {
    fn from(it: NotQueued) -> Self {
        match it {
            NotQueued::Busy(it) => it.into(),
            NotQueued::State(it) => it.into(),
        }
    }
}

impl Environment {
    /// Whether it may do this now: nothing else goes on (PE-25), and its state allows it.
    pub(crate) fn admit(
        &self,
        operation: Operation,
        active: Option<&Task>,
    ) -> Result<State, NotQueued> {
        if let Some(task) = active {
            return Err(Refused::TaskInProgress(task.id.into()).into());
        }
        Ok(self.state.admit(self.pause_reason, operation)?)
    }

    /// Queues a task, if nothing else goes on in the environment and its state allows it (PE-24).
    pub(crate) fn begin(
        mut self,
        order: Order,
        by: (UserId, Cause),
        active: Option<&Task>,
        now: OffsetDateTime,
    ) -> Result<Changed<(Self, Task)>, NotQueued> {
        let next = self.admit(Operation::of(order.kind), active)?;
        let before = Some((&self).into());
        let task = Task::queue(&self, order, by, now);
        self.stable_state = self.state;
        self.go(next, now);
        Ok(self.told(before, task, Moment::Queued))
    }

    /// The platform pauses what runs; only it lifts that again. `None`: there is nothing to pause.
    pub(crate) fn suspend(
        mut self,
        reason: PauseReason,
        active: Option<&Task>,
        now: OffsetDateTime,
    ) -> Option<Changed<Self>> {
        self.admit(Operation::Suspend, active).ok()?;
        let before = Some((&self).into());
        self.resumes = self.state == State::Running;
        self.go(State::Paused, now);
        self.pause_reason = Some(reason);
        let event = pb::EnvironmentSuspended { before, after: Some((&self).into()) };
        let about = self.about();
        Some(Changed::new(self, &event, about))
    }

    /// The platform lets it go on: as it was, or paused by its person again.
    pub(crate) fn lift(mut self, now: OffsetDateTime) -> Changed<Self> {
        let before = Some((&self).into());
        self.pause_reason = Some(PauseReason::User);
        self.updated_at = now;
        let event = pb::EnvironmentSuspensionLifted { before, after: Some((&self).into()) };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    /// The end of a task.
    pub(crate) fn finish(
        mut self,
        task: Task,
        outcome: Outcome,
        now: OffsetDateTime,
    ) -> Changed<(Self, Task)> {
        let before = Some((&self).into());
        let moment = match outcome {
            Outcome::Completed { commit, url, observed } => {
                self.completed(&task, (commit, url), observed, now);
                Moment::Completed
            }
            // Its services are not there; what runs is.
            Outcome::Failed { .. } if task.kind == Kind::Provision => Moment::Failed,
            Outcome::Failed { error } => {
                self.go(State::Error, now);
                self.last_error = error;
                Moment::Failed
            }
            Outcome::Cancelled => {
                let back = self.stable_state;
                if !matches!(self.state, State::Paused) {
                    self.go(back, now);
                }
                Moment::Cancelled
            }
        };
        self.told(before, task, moment)
    }

    fn completed(
        &mut self,
        task: &Task,
        (commit, url): (String, String),
        observed: Option<Observed>,
        now: OffsetDateTime,
    ) {
        let next = match task.kind {
            Kind::Deploy | Kind::Promote => {
                self.deployed(task.id, commit);
                State::Running
            }
            Kind::Rollback => {
                self.deployed(task.deployment_id.unwrap_or(task.id), commit);
                State::Running
            }
            Kind::Clone => {
                self.deployed(task.id, commit);
                if url.is_empty() { State::Stopped } else { State::Running }
            }
            Kind::Start | Kind::Restart | Kind::Resume => State::Running,
            Kind::Stop => State::Stopped,
            Kind::Pause => State::Paused,
            Kind::Destroy => State::Deleted,
            Kind::Sync => self.really(observed),
            // It changes nothing of what runs.
            Kind::Provision => return,
        };
        match (task.kind, next) {
            (_, State::Stopped | State::Deleted) => self.url = String::new(),
            (_, State::Running) if !url.is_empty() => self.url = url,
            _ => {}
        }
        if next != State::Error {
            self.last_error = String::new();
        } else if self.last_error.is_empty() {
            "it should run, and does not".clone_into(&mut self.last_error);
        }
        self.go(next, now);
    }

    fn deployed(&mut self, release: TaskId, commit: String) {
        (self.deployment_id, self.commit) = (Some(release), commit);
    }

    /// What a look at the server makes of its state. What the platform paused stays paused.
    fn really(&self, observed: Option<Observed>) -> State {
        let by_platform = self.pause_reason.is_some_and(|it| it != PauseReason::User);
        match observed {
            _ if by_platform => State::Paused,
            Some(Observed::Running) => State::Running,
            Some(Observed::Paused) => State::Paused,
            Some(Observed::Stopped) => State::Stopped,
            Some(Observed::Failed) | None => State::Error,
        }
    }

    /// What a server finds to be otherwise than it is believed to be, while no task goes on: a program that
    /// ended. `None`: nothing is wrong, or it is not for a server to say.
    pub(crate) fn correct(
        mut self,
        observed: Observed,
        detail: &str,
        now: OffsetDateTime,
    ) -> Option<Changed<Self>> {
        if (self.state, observed) != (State::Running, Observed::Failed) {
            return None;
        }
        let before = Some((&self).into());
        self.go(State::Error, now);
        detail.clone_into(&mut self.last_error);
        let (after, about) = (Some((&self).into()), self.about());
        let event = pb::EnvironmentStateCorrected { before, after, detail: detail.to_owned() };
        Some(Changed::new(self, &event, about))
    }

    /// Its record goes, while what it left on a server that is gone may still lie there.
    pub(crate) fn drop_record(mut self, now: OffsetDateTime) -> Changed<Self> {
        let before = Some((&self).into());
        self.go(State::Deleted, now);
        let event = pb::EnvironmentDeleted { before, leaked: true, task: None };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    /// What runs ends with its organization, whoever paused it. `None`: nothing can run.
    pub(crate) fn shut(mut self, by: UserId, now: OffsetDateTime) -> Option<Changed<(Self, Task)>> {
        if !matches!(self.state, State::Running | State::Error | State::Paused) {
            return None;
        }
        let before = Some((&self).into());
        let task = Task::queue(&self, Order::plain(Kind::Stop), (by, Cause::System), now);
        self.stable_state = self.state;
        self.updated_at = now;
        Some(self.told(before, task, Moment::Queued))
    }

    /// It goes, and never was on any server.
    pub(crate) fn never_was(mut self, now: OffsetDateTime) -> Changed<Self> {
        let before = Some((&self).into());
        self.go(State::Deleted, now);
        let event = pb::EnvironmentDeleted { before, leaked: false, task: None };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    /// A new environment is filled with the copy of another one.
    pub(crate) fn fill(
        mut self,
        order: Order,
        by: (UserId, Cause),
        now: OffsetDateTime,
    ) -> Changed<(Self, Task)> {
        let before = Some((&self).into());
        let task = Task::queue(&self, order, by, now);
        self.go(State::Cloning, now);
        self.told(before, task, Moment::Queued)
    }

    fn go(&mut self, next: State, now: OffsetDateTime) {
        self.state = next;
        self.updated_at = now;
        self.pause_reason = match next {
            State::Paused => Some(self.pause_reason.unwrap_or(PauseReason::User)),
            _ => None,
        };
    }

    fn told(
        self,
        before: Option<pb::Environment>,
        task: Task,
        moment: Moment,
    ) -> Changed<(Self, Task)> {
        let (after, about) = (Some((&self).into()), self.about());
        let (deployment, told) = (task.kind.is_deployment(), Some((&task).into()));
        macro_rules! tell {
            ($event:ident) => {
                Changed::new((self, task), &pb::$event { before, after, task: told }, about)
            };
        }
        match (moment, deployment) {
            (Moment::Queued, true) => tell!(DeploymentTriggered),
            (Moment::Queued, false) => tell!(EnvironmentActionRequested),
            (Moment::Completed, true) => tell!(DeploymentCompleted),
            (Moment::Completed, false) if self.state == State::Deleted => {
                let event = pb::EnvironmentDeleted { before, leaked: false, task: told };
                Changed::new((self, task), &event, about)
            }
            (Moment::Completed, false) => tell!(EnvironmentActionCompleted),
            (Moment::Failed, true) => tell!(DeploymentFailed),
            (Moment::Failed, false) => tell!(EnvironmentActionFailed),
            (Moment::Cancelled, _) => tell!(TaskCancelled),
        }
    }
}

/// What happens to a task.
enum Moment {
    Queued,
    Completed,
    Failed,
    Cancelled,
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
