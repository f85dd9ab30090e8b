//! Environments: a branch of a project, deployed and isolated.

pub(crate) mod rpc;
pub(crate) mod store;
mod wire;

use api::{error::Reason, project as pb};
use chassis::{About, Changed, Code, OrgId, ProjectGrant, ProjectId, Refusal, UserId};
use time::OffsetDateTime;

use crate::task::{self, Outcome, Task};

chassis::id!(
    /// Identifies an environment.
    EnvironmentId,
    "environment"
);

/// What an environment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum Kind {
    Development,
    Staging,
    Production,
}

/// Where an environment is in its life (2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum State {
    Pending,
    Deploying,
    Running,
    Error,
    Stopping,
    Stopped,
}

/// A deployed branch.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) id: EnvironmentId,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: ProjectId,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) state: State,
    pub(crate) branch: String,
    pub(crate) commit: String,
    pub(crate) url: String,
    pub(crate) last_error: String,
    pub(crate) created_at: OffsetDateTime,
}

/// What a person gives to create an environment.
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// `None`: the project's default.
    pub(crate) branch: Option<String>,
}

/// Why an environment does not come to be, or does not deploy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the project has an environment with this name")]
    NameTaken,
    #[error("the project has a production environment")]
    ProductionExists,
    #[error("the plan allows {0} environments; delete one or upgrade")]
    Limit(i64),
    #[error("another task of this environment is queued or running")]
    TaskInProgress(String),
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::NameTaken | Self::ProductionExists => Code::AlreadyExists,
            Self::TaskInProgress(_) => Code::Aborted,
            Self::Limit(_) => Code::ResourceExhausted,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::NameTaken => Reason::EnvironmentNameTaken,
            Self::ProductionExists => Reason::ProductionExists,
            Self::TaskInProgress(_) => Reason::TaskInProgress,
            Self::Limit(_) => Reason::EnvironmentLimitReached,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::TaskInProgress(task_id) => vec![("task_id", task_id.clone())],
            Self::Limit(limit) => vec![("limit", limit.to_string())],
            Self::NameTaken | Self::ProductionExists => vec![],
        }
    }
}

impl Environment {
    /// Whether one more fits into the plan (PL-1, PL-2): `count` is of the whole organization.
    pub(crate) fn fits(count: i64, limit: Option<i64>) -> Result<(), Refused> {
        match limit {
            Some(limit) if count >= limit => Err(Refused::Limit(limit)),
            _ => Ok(()),
        }
    }

    /// A new environment, in which nothing runs yet.
    pub(crate) fn create(
        grant: &ProjectGrant,
        draft: Draft,
        default_branch: String,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        let it = Self {
            id: EnvironmentId::new(),
            org_id: grant.org_id(),
            project_id: grant.project_id(),
            name: draft.name,
            kind: draft.kind,
            state: State::Pending,
            branch: draft.branch.unwrap_or(default_branch),
            commit: String::new(),
            url: String::new(),
            last_error: String::new(),
            created_at: now,
        };
        let event = pb::EnvironmentCreated { after: Some((&it).into()) };
        let about = it.about();
        Changed::new(it, &event, about)
    }

    /// From any state but DEPLOYING, in which `active` is the task that goes on (PE-25, PE-27).
    pub(crate) fn deploy(
        mut self,
        grant: &ProjectGrant,
        active: Option<&Task>,
        now: OffsetDateTime,
    ) -> Result<Changed<(Self, Task)>, Refused> {
        if let Some(task) = active {
            return Err(Refused::TaskInProgress(task.id.into()));
        }
        let before = Some((&self).into());
        let task = Task::queue(&self, task::Kind::Deploy, grant.account().user_id, now);
        self.state = State::Deploying;
        let event = pb::DeploymentTriggered {
            before,
            after: Some((&self).into()),
            task: Some((&task).into()),
        };
        let about = self.about();
        Ok(Changed::new((self, task), &event, about))
    }

    /// What runs is to end, and what is about to run is not to.
    pub(crate) fn stop(mut self, by: UserId, now: OffsetDateTime) -> Changed<(Self, Task)> {
        let before = Some((&self).into());
        let task = Task::queue(&self, task::Kind::Stop, by, now);
        self.state = State::Stopping;
        let (after, about) = (Some((&self).into()), self.about());
        let event = pb::EnvironmentStopRequested { before, after, task: Some((&task).into()) };
        Changed::new((self, task), &event, about)
    }

    /// The end of a task.
    pub(crate) fn finish(self, task: Task, outcome: Outcome) -> Changed<(Self, Task)> {
        match task.kind {
            task::Kind::Deploy => self.deployed(task, outcome),
            task::Kind::Stop => self.stopped(task, outcome),
        }
    }

    fn stopped(mut self, task: Task, outcome: Outcome) -> Changed<(Self, Task)> {
        let before = Some((&self).into());
        let done = Some((&task).into());
        if let Outcome::Failed { error } = outcome {
            (self.state, self.last_error) = (State::Error, error);
            let (after, about) = (Some((&self).into()), self.about());
            let event = pb::EnvironmentStopFailed { before, after, task: done };
            return Changed::new((self, task), &event, about);
        }
        (self.state, self.url) = (State::Stopped, String::new());
        let (after, about) = (Some((&self).into()), self.about());
        let event = pb::EnvironmentStopped { before, after, task: done };
        Changed::new((self, task), &event, about)
    }

    /// The end of a deployment: serving, or not. What was deployed before stays known.
    fn deployed(mut self, task: Task, outcome: Outcome) -> Changed<(Self, Task)> {
        let before = Some((&self).into());
        let succeeded = match outcome {
            Outcome::Completed { commit, url } => {
                (self.state, self.commit, self.url) = (State::Running, commit, url);
                self.last_error = String::new();
                true
            }
            Outcome::Failed { error } => {
                (self.state, self.last_error) = (State::Error, error);
                false
            }
        };
        let (after, about) = (Some((&self).into()), self.about());
        let done = Some((&task).into());
        if succeeded {
            let event = pb::DeploymentCompleted { before, after, task: done };
            Changed::new((self, task), &event, about)
        } else {
            let event = pb::DeploymentFailed { before, after, task: done };
            Changed::new((self, task), &event, about)
        }
    }

    pub(crate) fn about(&self) -> About {
        About::object("environment", self.id, &self.name)
            .of(self.org_id)
            .in_project(self.project_id)
    }
}
