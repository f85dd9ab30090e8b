//! Tasks: units of work that a runner does for an environment. The state of a task only moves forward
//! (PE-34).

pub mod lease;
mod log;
pub mod wire;

use api::project as pb;
use chassis::{Changed, OrgId, ProjectId, UserId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::types::{EnvironmentId, ProjectRef, ServerId, TaskId};

/// State of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Queued,
    /// A runner has leased it at least once.
    Running,
    Completed,
    Failed,
    Cancelled,
}

chassis::text_column!(State {
    Queued = "queued", Running = "running", Completed = "completed", Failed = "failed",
    Cancelled = "cancelled",
});

/// Kind of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Deploy,
    Start,
    Stop,
    Restart,
    Pause,
    Resume,
    /// Reads the state of the program from the server.
    Sync,
    Rollback,
    Clone,
    Promote,
    Destroy,
    /// Provisions or removes add-ons.
    Provision,
    /// Updates modules of the deployed version.
    UpdateModules,
}

chassis::text_column!(Kind {
    Deploy = "deploy", Start = "start", Stop = "stop", Restart = "restart", Pause = "pause",
    Resume = "resume", Sync = "sync", Rollback = "rollback", Clone = "clone", Promote = "promote",
    Destroy = "destroy", Provision = "provision", UpdateModules = "update_modules",
});

/// Kind of initiator of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    User,
    Push,
    System,
}

chassis::text_column!(Cause { User = "user", Push = "push", System = "system" });

/// State of a program, as a runner observes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    Running,
    Stopped,
    Failed,
    Paused,
}

chassis::text_column!(Observed {
    Running = "running", Stopped = "stopped", Failed = "failed", Paused = "paused",
});

/// A task.
#[derive(Clone, Debug)]
pub struct Task {
    pub id: TaskId,
    pub org_id: OrgId,
    pub project_id: ProjectId,
    pub environment_id: EnvironmentId,
    pub kind: Kind,
    pub state: State,
    pub progress_percent: i32,
    pub current_step: String,
    pub steps_completed: i32,
    pub total_steps: i32,
    pub error_message: String,
    /// Nil UUID if no person started it.
    pub triggered_by: UserId,
    pub cause: Cause,
    /// Server whose runner may lease it. `None`: any shared server.
    pub server_id: Option<ServerId>,
    pub branch: String,
    /// Commit to deploy. Empty: the newest one of the branch, until the runner reports it.
    pub commit: String,
    pub modules: Vec<String>,
    /// Source of a clone or promotion.
    pub source_environment_id: Option<EnvironmentId>,
    /// Deployment that a rollback restores.
    pub deployment_id: Option<TaskId>,
    pub retry_of: Option<TaskId>,
    /// Event that requested the task. `None`: the task was stored by an older version.
    pub request_event_id: Option<Uuid>,
    /// True if a rollback has replaced this deployment.
    pub rolled_back: bool,
    pub cancel_requested: bool,
    pub created_at: OffsetDateTime,
    pub started_at: Option<OffsetDateTime>,
    pub completed_at: Option<OffsetDateTime>,
    pub lease_id: Option<Uuid>,
    pub lease_ends_at: Option<OffsetDateTime>,
    /// Number of leases.
    pub attempts: i32,
    pub commit_subject: String,
    pub commit_author: String,
    /// Size of the log, as it counts towards its limit.
    pub log_bytes: i64,
}

/// Specification of a task to be enqueued.
#[derive(Clone, Debug)]
pub struct TaskSpec {
    pub kind: Kind,
    /// Branch that has the commit. `None`: the branch of the environment.
    pub branch: Option<String>,
    pub commit: String,
    pub modules: Vec<String>,
    pub source_environment_id: Option<EnvironmentId>,
    pub deployment_id: Option<TaskId>,
    pub retry_of: Option<TaskId>,
}

/// Environment of a new task, as it is when the task is enqueued.
#[derive(Clone, Debug)]
pub struct TaskTarget {
    pub project: ProjectRef,
    pub environment_id: EnvironmentId,
    /// `None`: the task is for any shared server.
    pub server_id: Option<ServerId>,
    pub branch: String,
}

/// Initiator of a task, as it is stored with the task.
#[derive(Clone, Copy, Debug)]
pub struct TaskOrigin {
    /// Nil UUID if no person started it.
    pub user_id: UserId,
    pub cause: Cause,
}

/// Outcome of a finished task.
#[derive(Clone, Debug)]
pub enum Outcome {
    Completed(TaskResult),
    Failed { error: String },
    Cancelled,
}

/// Result of a completed task.
#[derive(Clone, Debug, Default)]
pub struct TaskResult {
    pub commit: String,
    /// URL of the program; empty if it does not run.
    pub url: String,
    /// State of the program after a sync.
    pub observed: Option<Observed>,
}

impl Kind {
    /// True if the task replaces the release of its environment.
    pub fn is_deployment(self) -> bool {
        matches!(self, Self::Deploy | Self::Rollback | Self::Promote)
    }

    /// True if a running task of this kind can be cancelled: until it is complete, the environment is
    /// unchanged.
    pub fn is_cancellable(self) -> bool {
        self.is_deployment() || self == Self::Clone
    }

    /// True if the task may start a program, which needs its variables.
    pub fn starts_program(self) -> bool {
        !matches!(self, Self::Stop | Self::Pause | Self::Sync | Self::Destroy | Self::Provision)
    }

    /// True if the task only ends programs: it is allowed in blocked and deleted organizations.
    pub fn is_shutdown(self) -> bool {
        matches!(self, Self::Stop | Self::Pause | Self::Destroy)
    }

    /// Permission that a retry needs in addition to the one of `RetryTask`: the one of the original method.
    pub fn additional_retry_permission(self) -> Option<&'static str> {
        match self {
            Self::Clone | Self::Promote => Some("project.environments.update"),
            Self::Destroy => Some("project.environments.delete"),
            _ => None,
        }
    }
}

impl TaskSpec {
    /// A task with no options but its kind.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            branch: None,
            commit: String::new(),
            modules: vec![],
            source_environment_id: None,
            deployment_id: None,
            retry_of: None,
        }
    }

    /// A retry of a task, with the same configuration (PE-32). A retried deployment takes the newest commit
    /// of the branch; a retried promotion or rollback takes the same commit.
    pub fn retry(task: &Task) -> Self {
        let has_fixed_commit = matches!(task.kind, Kind::Promote | Kind::Rollback);
        Self {
            kind: task.kind,
            branch: has_fixed_commit.then(|| task.branch.clone()),
            commit: if has_fixed_commit { task.commit.clone() } else { String::new() },
            modules: task.modules.clone(),
            source_environment_id: task.source_environment_id,
            deployment_id: task.deployment_id,
            retry_of: Some(task.id),
        }
    }
}

impl Task {
    /// Creates a task in state QUEUED.
    pub fn new(
        target: TaskTarget,
        spec: TaskSpec,
        origin: TaskOrigin,
        now: OffsetDateTime,
    ) -> Self {
        Self {
            id: TaskId::new(),
            org_id: target.project.org_id,
            project_id: target.project.project_id,
            environment_id: target.environment_id,
            kind: spec.kind,
            state: State::Queued,
            progress_percent: 0,
            current_step: String::new(),
            steps_completed: 0,
            total_steps: 0,
            error_message: String::new(),
            triggered_by: origin.user_id,
            cause: origin.cause,
            server_id: target.server_id,
            branch: spec.branch.unwrap_or(target.branch),
            commit: spec.commit,
            modules: spec.modules,
            source_environment_id: spec.source_environment_id,
            deployment_id: spec.deployment_id,
            retry_of: spec.retry_of,
            request_event_id: None,
            rolled_back: false,
            cancel_requested: false,
            created_at: now,
            started_at: None,
            completed_at: None,
            lease_id: None,
            lease_ends_at: None,
            attempts: 0,
            commit_subject: String::new(),
            commit_author: String::new(),
            log_bytes: 0,
        }
    }

    pub fn project_ref(&self) -> ProjectRef {
        ProjectRef { org_id: self.org_id, project_id: self.project_id }
    }

    /// Source environment of a clone; `None` for other tasks.
    pub fn clone_source(&self) -> Option<EnvironmentId> {
        self.source_environment_id.filter(|_| self.kind == Kind::Clone)
    }

    /// Cancels a queued task at once. For a running deployment or copy, requests its runner to cancel it
    /// (PE-31).
    pub fn cancel(mut self, now: OffsetDateTime) -> Result<Cancellation, NotCancellable> {
        match self.state {
            State::Queued => {
                self.finish(&Outcome::Cancelled, now);
                Ok(Cancellation::Cancelled(self))
            }
            State::Running if self.kind.is_cancellable() => {
                let before = Some((&self).into());
                self.cancel_requested = true;
                let event = pb::TaskCancelRequested { before, after: Some((&self).into()) };
                let target = self.event_target();
                Ok(Cancellation::Requested(Changed::new(self, &event, target)))
            }
            State::Running => {
                let reason =
                    "it is running, and only a running deployment or copy can be cancelled";
                Err(NotCancellable(reason))
            }
            State::Completed | State::Failed | State::Cancelled => {
                Err(NotCancellable("it is already finished"))
            }
        }
    }

    /// Fails the task, whichever runner has leased it.
    pub fn fail(mut self, error: &str, now: OffsetDateTime) -> (Self, Outcome) {
        let outcome = Outcome::Failed { error: error.to_owned() };
        self.finish(&outcome, now);
        (self, outcome)
    }

    /// Sets the final state, and ends the lease.
    pub fn finish(&mut self, outcome: &Outcome, now: OffsetDateTime) {
        self.completed_at = Some(now);
        self.lease_id = None;
        self.lease_ends_at = None;
        match outcome {
            Outcome::Completed(result) => {
                self.state = State::Completed;
                self.progress_percent = 100;
                self.steps_completed = self.total_steps;
                if self.kind.is_deployment() || self.kind == Kind::Clone {
                    self.commit.clone_from(&result.commit);
                }
            }
            Outcome::Failed { error } => {
                self.state = State::Failed;
                self.error_message.clone_from(error);
            }
            Outcome::Cancelled => self.state = State::Cancelled,
        }
    }

    pub fn event_target(&self) -> chassis::EventTarget {
        chassis::EventTarget::object("task", self.id, "")
            .in_org(self.org_id)
            .in_project(self.project_id)
            .in_environment(self.environment_id.0)
    }
}

/// Result of cancelling a task.
pub enum Cancellation {
    /// The task was queued, and is now CANCELLED.
    Cancelled(Task),
    /// The task is running; its runner gets the request with its next report or heartbeat.
    Requested(Changed<Task>),
}

/// The task cannot be cancelled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task cannot be cancelled: {0}")]
pub struct NotCancellable(&'static str);

impl chassis::Refusal for NotCancellable {
    fn reason(&self) -> api::error::Reason {
        api::error::Reason::InvalidState
    }
}

/// The task cannot be retried, because it has not failed (PE-32).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("only a FAILED task can be retried")]
pub struct NotFailed;

impl chassis::Refusal for NotFailed {
    fn reason(&self) -> api::error::Reason {
        api::error::Reason::InvalidState
    }
}

#[cfg(test)]
mod tests;
