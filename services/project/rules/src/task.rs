//! Tasks: units of work that a runner does for an environment. The state of a task only moves forward
//! (PE-34).
//!
//! | concept | file |
//! |---|---|
//! | lease of a task by a runner | `lease` |
//! | limits of the log | `log` |
//! | API for people: get, list, cancel, retry, watch the log | `rpc`, `watch` |
//! | API for runners: lease, report progress, finish, heartbeat | `runner` |
//! | steps of an operation, across tables | `commands` |

pub(crate) mod commands;
pub(crate) mod lease;
mod log;
pub(crate) mod rpc;
pub(crate) mod runner;
pub(crate) mod store;
mod watch;
pub(crate) mod wire;

use api::project as pb;
use chassis::{Changed, OrgId, ProjectId, UserId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    environment::{Environment, EnvironmentId},
    project::ProjectRef,
    server::ServerId,
};

chassis::id!(
    /// Identifies a task.
    TaskId,
    "task"
);

/// State of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum State {
    Queued,
    /// A runner has leased it at least once.
    Running,
    Completed,
    Failed,
    Cancelled,
}

/// Kind of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum Kind {
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
}

/// Kind of initiator of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum Cause {
    User,
    Push,
    System,
}

/// State of a program, as a runner observes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum Observed {
    Running,
    Stopped,
    Failed,
    Paused,
}

/// A task.
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
    pub(crate) steps_completed: i32,
    pub(crate) total_steps: i32,
    pub(crate) error_message: String,
    /// Nil UUID if no person started it.
    pub(crate) triggered_by: UserId,
    pub(crate) cause: Cause,
    /// Server whose runner may lease it. `None`: any shared server.
    pub(crate) server_id: Option<ServerId>,
    pub(crate) branch: String,
    /// Commit to deploy. Empty: the newest one of the branch, until the runner reports it.
    pub(crate) commit: String,
    pub(crate) modules: Vec<String>,
    /// Source of a clone or promotion.
    pub(crate) source_environment_id: Option<EnvironmentId>,
    /// Deployment that a rollback restores.
    pub(crate) deployment_id: Option<TaskId>,
    pub(crate) retry_of: Option<TaskId>,
    /// True if a rollback has replaced this deployment.
    pub(crate) rolled_back: bool,
    pub(crate) cancel_requested: bool,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) started_at: Option<OffsetDateTime>,
    pub(crate) completed_at: Option<OffsetDateTime>,
    pub(crate) lease_id: Option<Uuid>,
    pub(crate) lease_ends_at: Option<OffsetDateTime>,
    /// Number of leases.
    pub(crate) attempts: i32,
    pub(crate) commit_subject: String,
    pub(crate) commit_author: String,
    /// Size of the log, as it counts towards its limit.
    pub(crate) log_bytes: i64,
}

/// Specification of a task to be enqueued.
#[derive(Clone, Debug)]
pub(crate) struct TaskSpec {
    pub(crate) kind: Kind,
    pub(crate) commit: String,
    pub(crate) modules: Vec<String>,
    pub(crate) source_environment_id: Option<EnvironmentId>,
    pub(crate) deployment_id: Option<TaskId>,
    pub(crate) retry_of: Option<TaskId>,
}

/// Initiator of a task, as it is stored with the task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskOrigin {
    /// Nil UUID if no person started it.
    pub(crate) user_id: UserId,
    pub(crate) cause: Cause,
}

/// Outcome of a finished task.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Completed(TaskResult),
    Failed { error: String },
    Cancelled,
}

/// Result of a completed task.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskResult {
    pub(crate) commit: String,
    /// URL of the program; empty if it does not run.
    pub(crate) url: String,
    /// State of the program after a sync.
    pub(crate) observed: Option<Observed>,
}

impl Kind {
    /// True if the task replaces the release of its environment.
    pub(crate) fn is_deployment(self) -> bool {
        matches!(self, Self::Deploy | Self::Rollback | Self::Promote)
    }

    /// True if the task only ends programs: it is allowed in blocked and deleted organizations.
    pub(crate) fn is_shutdown(self) -> bool {
        matches!(self, Self::Stop | Self::Pause | Self::Destroy)
    }

    /// Permission that a retry needs in addition to the one of `RetryTask`: the one of the original method.
    pub(crate) fn additional_retry_permission(self) -> Option<&'static str> {
        match self {
            Self::Clone | Self::Promote => Some("project.environments.update"),
            Self::Destroy => Some("project.environments.delete"),
            _ => None,
        }
    }
}

impl TaskSpec {
    /// A task with no options but its kind.
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            commit: String::new(),
            modules: vec![],
            source_environment_id: None,
            deployment_id: None,
            retry_of: None,
        }
    }

    /// A retry of a task, with the same configuration (PE-32). A retried deployment takes the newest commit
    /// of the branch; a retried promotion or rollback takes the same commit.
    pub(crate) fn retry(task: &Task) -> Self {
        let has_fixed_commit = matches!(task.kind, Kind::Promote | Kind::Rollback);
        Self {
            kind: task.kind,
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
    pub(crate) fn new(
        environment: &Environment,
        spec: TaskSpec,
        origin: TaskOrigin,
        now: OffsetDateTime,
    ) -> Self {
        Self {
            id: TaskId::new(),
            org_id: environment.org_id,
            project_id: environment.project_id,
            environment_id: environment.id,
            kind: spec.kind,
            state: State::Queued,
            progress_percent: 0,
            current_step: String::new(),
            steps_completed: 0,
            total_steps: 0,
            error_message: String::new(),
            triggered_by: origin.user_id,
            cause: origin.cause,
            server_id: environment.server_id,
            branch: environment.branch.clone(),
            commit: spec.commit,
            modules: spec.modules,
            source_environment_id: spec.source_environment_id,
            deployment_id: spec.deployment_id,
            retry_of: spec.retry_of,
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

    pub(crate) fn project_ref(&self) -> ProjectRef {
        ProjectRef { org_id: self.org_id, project_id: self.project_id }
    }

    /// Source environment of a clone; `None` for other tasks.
    pub(crate) fn clone_source(&self) -> Option<EnvironmentId> {
        self.source_environment_id.filter(|_| self.kind == Kind::Clone)
    }

    /// Cancels a queued task at once. For a running deployment, requests its runner to cancel it (PE-31).
    pub(crate) fn cancel(mut self, now: OffsetDateTime) -> Result<Cancellation, NotCancellable> {
        match self.state {
            State::Queued => {
                self.finish(&Outcome::Cancelled, now);
                Ok(Cancellation::Cancelled(self))
            }
            State::Running if self.kind.is_deployment() => {
                let before = Some((&self).into());
                self.cancel_requested = true;
                let event = pb::TaskCancelRequested { before, after: Some((&self).into()) };
                let target = self.event_target();
                Ok(Cancellation::Requested(Changed::new(self, &event, target)))
            }
            State::Running => {
                Err(NotCancellable("it is running, and only a running deployment can be cancelled"))
            }
            State::Completed | State::Failed | State::Cancelled => {
                Err(NotCancellable("it is already finished"))
            }
        }
    }

    /// Fails the task, whichever runner has leased it.
    pub(crate) fn fail(mut self, error: &str, now: OffsetDateTime) -> (Self, Outcome) {
        let outcome = Outcome::Failed { error: error.to_owned() };
        self.finish(&outcome, now);
        (self, outcome)
    }

    /// Sets the final state, and ends the lease.
    pub(crate) fn finish(&mut self, outcome: &Outcome, now: OffsetDateTime) {
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

    pub(crate) fn event_target(&self) -> chassis::EventTarget {
        chassis::EventTarget::object("task", self.id, "")
            .in_org(self.org_id)
            .in_project(self.project_id)
            .in_environment(self.environment_id.0)
    }
}

/// Result of cancelling a task.
pub(crate) enum Cancellation {
    /// The task was queued, and is now CANCELLED.
    Cancelled(Task),
    /// The task is running; its runner gets the request with its next report or heartbeat.
    Requested(Changed<Task>),
}

/// The task cannot be cancelled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task cannot be cancelled: {0}")]
pub(crate) struct NotCancellable(&'static str);

impl chassis::Refusal for NotCancellable {
    fn reason(&self) -> api::error::Reason {
        api::error::Reason::InvalidState
    }
}

/// The task cannot be retried, because it has not failed (PE-32).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("only a FAILED task can be retried")]
pub(crate) struct NotFailed;

impl chassis::Refusal for NotFailed {
    fn reason(&self) -> api::error::Reason {
        api::error::Reason::InvalidState
    }
}

#[cfg(test)]
mod tests;
