//! Tasks: what a runner does for an environment. A task only moves forward (PE-34).
//!
//! | concept | file |
//! |---|---|
//! | what a task is, and who holds it | here, `lease` |
//! | limits of what a runner reports | `report`, `log` |
//! | for people: look, follow, cancel, repeat | `rpc`, `watch` |
//! | for runners: take, report, end | `runner` |

pub(crate) mod lease;
mod log;
pub(crate) mod report;
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
    server::ServerId,
};

chassis::id!(
    /// Identifies a task.
    TaskId,
    "task"
);

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum State {
    Queued,
    Running,
    Completed,
    Failed,
    Cancelled,
}

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum Kind {
    Deploy,
    Start,
    Stop,
    Restart,
    Pause,
    Resume,
    Sync,
    Rollback,
    Clone,
    Promote,
    Destroy,
    /// Gives extra services, or takes them away.
    Provision,
}

/// What a task came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum Cause {
    User,
    Push,
    System,
}

/// What a runner finds of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum Observed {
    Running,
    Stopped,
    Failed,
    Paused,
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
    pub(crate) steps_completed: i32,
    pub(crate) total_steps: i32,
    pub(crate) error_message: String,
    pub(crate) triggered_by: UserId,
    pub(crate) cause: Cause,
    /// Whose runner works on it. `None`: any shared server's.
    pub(crate) server_id: Option<ServerId>,
    pub(crate) branch: String,
    /// Empty: the newest of the branch, until it is known.
    pub(crate) commit: String,
    pub(crate) modules: Vec<String>,
    pub(crate) source_environment_id: Option<EnvironmentId>,
    /// The earlier deployment that a rollback puts back.
    pub(crate) deployment_id: Option<TaskId>,
    pub(crate) retry_of: Option<TaskId>,
    pub(crate) rolled_back: bool,
    pub(crate) cancel_requested: bool,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) started_at: Option<OffsetDateTime>,
    pub(crate) completed_at: Option<OffsetDateTime>,
    pub(crate) lease_id: Option<Uuid>,
    pub(crate) lease_ends_at: Option<OffsetDateTime>,
    pub(crate) attempts: i32,
    pub(crate) commit_subject: String,
    pub(crate) commit_author: String,
    /// Bytes of its log.
    pub(crate) log_bytes: i64,
}

/// What is asked of a runner.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) kind: Kind,
    pub(crate) commit: String,
    pub(crate) modules: Vec<String>,
    pub(crate) source_environment_id: Option<EnvironmentId>,
    pub(crate) deployment_id: Option<TaskId>,
    pub(crate) retry_of: Option<TaskId>,
}

/// How a task ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Completed { commit: String, url: String, observed: Option<Observed> },
    Failed { error: String },
    Cancelled,
}

impl Kind {
    /// Whether it puts a version in place of another.
    pub(crate) fn is_deployment(self) -> bool {
        matches!(self, Self::Deploy | Self::Rollback | Self::Promote)
    }

    /// Whether nothing runs after it that did not run before.
    pub(crate) fn is_ending(self) -> bool {
        matches!(self, Self::Stop | Self::Pause | Self::Destroy)
    }
}

impl Kind {
    /// The permission that repeating it takes besides the one to deploy.
    pub(crate) fn needs_more(self) -> Option<&'static str> {
        match self {
            Self::Clone | Self::Promote => Some("project.environments.update"),
            Self::Destroy => Some("project.environments.delete"),
            _ => None,
        }
    }
}

impl Order {
    /// Just this.
    pub(crate) fn plain(kind: Kind) -> Self {
        Self {
            kind,
            commit: String::new(),
            modules: vec![],
            source_environment_id: None,
            deployment_id: None,
            retry_of: None,
        }
    }

    /// The same again, with the same configuration (PE-32).
    pub(crate) fn again(task: &Task) -> Self {
        // The newest commit of a branch is asked for anew.
        let fixed = matches!(task.kind, Kind::Promote | Kind::Rollback);
        let commit = if fixed { task.commit.clone() } else { String::new() };
        Self {
            kind: task.kind,
            commit,
            modules: task.modules.clone(),
            source_environment_id: task.source_environment_id,
            deployment_id: task.deployment_id,
            retry_of: Some(task.id),
        }
    }
}

impl Task {
    /// The environment that a copy is made of; `None` for other tasks.
    pub(crate) fn source_of_copy(&self) -> Option<EnvironmentId> {
        self.source_environment_id.filter(|_| self.kind == Kind::Clone)
    }

    pub(crate) fn queue(
        environment: &Environment,
        order: Order,
        (triggered_by, cause): (UserId, Cause),
        now: OffsetDateTime,
    ) -> Self {
        Self {
            id: TaskId::new(),
            org_id: environment.org_id,
            project_id: environment.project_id,
            environment_id: environment.id,
            kind: order.kind,
            state: State::Queued,
            progress_percent: 0,
            current_step: String::new(),
            steps_completed: 0,
            total_steps: 0,
            error_message: String::new(),
            triggered_by,
            cause,
            server_id: environment.server_id,
            branch: environment.branch.clone(),
            commit: order.commit,
            modules: order.modules,
            source_environment_id: order.source_environment_id,
            deployment_id: order.deployment_id,
            retry_of: order.retry_of,
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

    /// Somebody wants it to end: at once if nobody works on it; otherwise its runner is asked to let go
    /// (PE-31). What has ended stays as it is.
    pub(crate) fn cancel(mut self, now: OffsetDateTime) -> Result<Cancelled, NotCancellable> {
        match self.state {
            State::Queued => {
                self.end(&Outcome::Cancelled, now);
                Ok(Cancelled::Now(self))
            }
            State::Running if self.kind.is_deployment() => {
                let before = Some((&self).into());
                self.cancel_requested = true;
                let event = pb::TaskCancelRequested { before, after: Some((&self).into()) };
                let about = self.about();
                Ok(Cancelled::Asked(Changed::new(self, &event, about)))
            }
            State::Running => {
                Err(NotCancellable("its runner works on it, and it is no deployment"))
            }
            _ => Err(NotCancellable("it has ended")),
        }
    }

    pub(crate) fn end(&mut self, outcome: &Outcome, now: OffsetDateTime) {
        self.completed_at = Some(now);
        (self.lease_id, self.lease_ends_at) = (None, None);
        match outcome {
            Outcome::Completed { commit, .. } => {
                (self.state, self.progress_percent) = (State::Completed, 100);
                self.steps_completed = self.total_steps;
                if self.kind.is_deployment() || self.kind == Kind::Clone {
                    self.commit.clone_from(commit);
                }
            }
            Outcome::Failed { error } => {
                (self.state, self.error_message) = (State::Failed, error.clone());
            }
            Outcome::Cancelled => self.state = State::Cancelled,
        }
    }

    pub(crate) fn about(&self) -> chassis::About {
        chassis::About::object("task", self.id, "")
            .of(self.org_id)
            .in_project(self.project_id)
            .in_environment(self.environment_id.0)
    }
}

/// What became of a task that somebody wants to end.
pub(crate) enum Cancelled {
    /// It has ended.
    Now(Task),
    /// Its runner is asked.
    Asked(Changed<Task>),
}

/// A task cannot be cancelled any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task cannot be cancelled: {0}")]
pub(crate) struct NotCancellable(&'static str);

impl chassis::Refusal for NotCancellable {
    fn reason(&self) -> api::error::Reason {
        api::error::Reason::InvalidState
    }
}

/// Only what failed is repeated (PE-32).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("only a task that FAILED can be repeated")]
pub(crate) struct NotFailed;

impl chassis::Refusal for NotFailed {
    fn reason(&self) -> api::error::Reason {
        api::error::Reason::InvalidState
    }
}

#[cfg(test)]
mod tests;
