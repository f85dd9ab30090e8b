//! Environments: isolated deployments of a branch of a project.
//!
//! | concept | file |
//! |---|---|
//! | host name | `hostname` |
//! | operations that each state allows, and the state that follows | `state_machine` |
//! | changes of an environment when a task is enqueued or finished | `lifecycle` |
//! | further conditions of a task | `admission` |
//! | updates of fields by a person | `edit` |
//! | protection of PRODUCTION | `production` |
//! | reports of runners | `report` |
//! | resource usage over time | `metric` |

pub mod admission;
pub mod edit;
pub mod hostname;
pub mod lifecycle;
pub mod metric;
pub mod production;
pub mod report;
pub mod state_machine;
mod task_event;
pub mod wire;

use api::{error::Reason, project as pb};
use chassis::{Changed, Code, EventTarget, OrgId, ProjectGrant, ProjectId, Refusal};
use state_machine::Condition;
use time::OffsetDateTime;

use crate::{
    resources::Resources,
    task::{self, Observed, Task, TaskOrigin, TaskSpec, TaskTarget},
    types::{EnvironmentId, ProjectRef, ServerId, TaskId},
};

/// Purpose of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Development,
    Staging,
    /// At most one in a project.
    Production,
}

chassis::text_column!(Kind {
    Development = "development", Staging = "staging", Production = "production",
});

/// State of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Created, and never deployed.
    Pending,
    /// A deploy, rollback or promote task is active.
    Deploying,
    /// The program runs.
    Running,
    /// Deployed, and the program does not run.
    Stopped,
    /// The program is frozen, by a person or by the platform (see [`PauseReason`]).
    Paused,
    /// A clone task reads from this environment or writes to it.
    Cloning,
    /// The last task failed, or the program ended by itself. Another version may run
    /// ([`Environment::serves`]).
    Error,
    /// A destroy task is active.
    Destroying,
    /// Only in responses and events: the row is deleted.
    Deleted,
}

chassis::text_column!(State {
    Pending = "pending", Deploying = "deploying", Running = "running", Stopped = "stopped",
    Paused = "paused", Cloning = "cloning", Error = "error", Destroying = "destroying",
    Deleted = "deleted",
});

/// Origin of a pause. Only its origin can end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseReason {
    /// A person.
    User,
    /// The platform, because a quota is exceeded.
    Quota,
    /// The platform, because of an unpaid bill.
    Billing,
}

chassis::text_column!(PauseReason { User = "user", Quota = "quota", Billing = "billing" });

/// An environment.
#[derive(Clone, Debug)]
pub struct Environment {
    pub id: EnvironmentId,
    pub org_id: OrgId,
    pub project_id: ProjectId,
    pub name: String,
    pub kind: Kind,
    pub state: State,
    /// State that is restored if the active task is cancelled.
    pub stable_state: State,
    /// Set exactly if the state is PAUSED.
    pub pause_reason: Option<PauseReason>,
    /// True if the program is resumed when the platform lifts its suspension.
    pub resumes: bool,
    pub branch: String,
    /// Deployed commit; empty before the first deployment.
    pub commit: String,
    /// URL of the program; empty while it does not run.
    pub url: String,
    /// Host name below the apps domain of the server; empty if it has none.
    pub hostname: String,
    pub last_error: String,
    /// State of the program, as last seen; `None` before the first deployment.
    pub observed: Option<Observed>,
    /// State in which the last task ended.
    pub last_task_state: Option<task::State>,
    /// Deploys pushes to the branch.
    pub auto_deploy: bool,
    /// `None`: the first shared server that takes a task of this environment.
    pub server_id: Option<ServerId>,
    pub cpu_millis: i32,
    pub memory_mb: i32,
    pub disk_gb: i32,
    /// Task that deployed the current release.
    pub deployment_id: Option<TaskId>,
    /// Number of changes, from 1 on; its text is the etag.
    pub version: i64,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// Fields of an environment to be created.
#[derive(Clone)]
pub struct Draft {
    /// Empty: generated from the project's slug and the kind.
    pub name: String,
    pub kind: Kind,
    /// Empty: the default branch of the project.
    pub branch: String,
    /// `None`: the default server of the project.
    pub server_id: Option<ServerId>,
    pub auto_deploy: bool,
    pub resources: Resources,
}

/// Clone of an environment.
pub struct CloneSpec {
    pub source_id: EnvironmentId,
    pub target: CloneTarget,
}

/// Target of a clone.
pub enum CloneTarget {
    /// A new environment; an empty name is generated.
    New { name: String, kind: Kind },
    /// An existing environment, which is overwritten. `confirm_name` must be its exact name.
    Existing { id: EnvironmentId, confirm_name: String },
}

/// Promotion of a commit from STAGING to PRODUCTION.
pub struct Promotion {
    pub source_id: EnvironmentId,
    /// `None`: the production environment of the project.
    pub target_id: Option<EnvironmentId>,
}

/// Resources of an environment whose request sets none.
pub const DEFAULT_RESOURCES: Resources = Resources { cpu_millis: 500, memory_mb: 512, disk_gb: 5 };

/// Refusals to create an environment or to operate on it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the project already has an environment with this name; choose another name")]
    NameTaken,
    #[error("the project already has a production environment; a project has at most one")]
    ProductionExists,
    #[error("the plan allows {0} environments; delete one or upgrade the plan")]
    Limit(i64),
    #[error("another task of this environment is queued or running: {0}")]
    TaskInProgress(String),
    #[error("the environment was changed by another call; read it again and repeat the change")]
    Stale,
    #[error("confirm_name is not the exact name of the environment; nothing was changed")]
    WrongName,
    #[error("this is a production environment; set allow_production to destroy it")]
    ProductionProtected,
    #[error("both environments must be different and on the same server")]
    AcrossServers,
    #[error("there is no earlier successful deployment to roll back to")]
    NoEarlierDeployment,
    #[error("the project is being deleted")]
    ProjectDeleting,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::NameTaken | Self::ProductionExists => Code::AlreadyExists,
            Self::TaskInProgress(_) | Self::Stale => Code::Aborted,
            Self::Limit(_) => Code::ResourceExhausted,
            Self::WrongName => Code::InvalidArgument,
            Self::ProductionProtected
            | Self::AcrossServers
            | Self::NoEarlierDeployment
            | Self::ProjectDeleting => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::NameTaken => Reason::EnvironmentNameTaken,
            Self::ProductionExists => Reason::ProductionExists,
            Self::TaskInProgress(_) => Reason::TaskInProgress,
            Self::Limit(_) => Reason::EnvironmentLimitReached,
            Self::Stale => Reason::Conflict,
            Self::WrongName => Reason::ConfirmationMismatch,
            Self::ProductionProtected => Reason::ProductionProtected,
            Self::AcrossServers => Reason::CloneAcrossServers,
            Self::NoEarlierDeployment => Reason::NoEarlierDeployment,
            Self::ProjectDeleting => Reason::InvalidState,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::TaskInProgress(task_id) => vec![("task_id", task_id.clone())],
            Self::Limit(limit) => vec![("limit", limit.to_string())],
            _ => vec![],
        }
    }
}

impl Kind {
    /// Lower-case name, for generated names and the variable `ENVIRONMENT`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

impl State {
    /// Name of the state in messages, as in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Deploying => "DEPLOYING",
            Self::Running => "RUNNING",
            Self::Stopped => "STOPPED",
            Self::Paused => "PAUSED",
            Self::Cloning => "CLONING",
            Self::Error => "ERROR",
            Self::Destroying => "DESTROYING",
            Self::Deleted => "DELETED",
        }
    }
}

/// Generates the name `<project-slug>-<kind>-<n>` with the lowest free number.
pub fn generate_name(slug: &str, kind: Kind, taken: &[String]) -> String {
    let mut names = (1..).map(|number| format!("{slug}-{}-{number}", kind.as_str()));
    names.find(|it| !taken.contains(it)).expect("there are more numbers than taken names")
}

impl Environment {
    /// Refuses one more environment than the plan allows (PL-1, PL-2). `count`: environments of the whole
    /// organization; `limit`: `None` means unlimited.
    pub fn require_plan_capacity(count: i64, limit: Option<i64>) -> Result<(), Refused> {
        match limit {
            Some(limit) if count >= limit => Err(Refused::Limit(limit)),
            _ => Ok(()),
        }
    }

    /// Creates an environment in state PENDING.
    pub fn create(
        grant: &ProjectGrant,
        draft: Draft,
        name: String,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        let environment = Self {
            id: EnvironmentId::new(),
            org_id: grant.org_id(),
            project_id: grant.project_id(),
            name,
            kind: draft.kind,
            state: State::Pending,
            stable_state: State::Pending,
            pause_reason: None,
            resumes: false,
            branch: draft.branch,
            commit: String::new(),
            url: String::new(),
            hostname: String::new(),
            last_error: String::new(),
            observed: None,
            last_task_state: None,
            auto_deploy: draft.auto_deploy,
            server_id: draft.server_id,
            cpu_millis: draft.resources.cpu_millis,
            memory_mb: draft.resources.memory_mb,
            disk_gb: draft.resources.disk_gb,
            deployment_id: None,
            version: 1,
            created_at: now,
            updated_at: now,
        };
        let event = pb::EnvironmentCreated { after: Some((&environment).into()) };
        let target = environment.event_target();
        Changed::new(environment, &event, target)
    }

    pub fn project_ref(&self) -> ProjectRef {
        ProjectRef { org_id: self.org_id, project_id: self.project_id }
    }

    /// Creates a task of this environment.
    pub fn new_task(&self, spec: TaskSpec, origin: TaskOrigin, now: OffsetDateTime) -> Task {
        let target = TaskTarget {
            project: self.project_ref(),
            environment_id: self.id,
            server_id: self.server_id,
            branch: self.branch.clone(),
        };
        Task::new(target, spec, origin, now)
    }

    /// Returns what runs, as last seen. Rows that an earlier version of the service has written have only the
    /// state.
    pub fn program(&self) -> Option<Observed> {
        self.observed.or(match self.state {
            State::Running => Some(Observed::Running),
            State::Stopped => Some(Observed::Stopped),
            State::Paused => Some(Observed::Paused),
            _ => None,
        })
    }

    /// True if a version serves, also after a failed task.
    pub fn serves(&self) -> bool {
        let is_stable = matches!(self.state, State::Running | State::Error);
        is_stable && self.program() == Some(Observed::Running)
    }

    /// Facts on which the allowed operations depend.
    pub fn condition(&self) -> Condition {
        Condition { state: self.state, pause_reason: self.pause_reason, observed: self.program() }
    }

    /// Records what runs after a task that failed or was cancelled. Before the first deployment nothing can
    /// run.
    #[must_use]
    pub fn observe(self, observed: Option<Observed>) -> Self {
        let observed = observed.filter(|_| self.deployment_id.is_some()).or(self.observed);
        Self { observed, ..self }
    }

    /// Resources that are allocated on its server.
    pub fn resources(&self) -> Resources {
        Resources { cpu_millis: self.cpu_millis, memory_mb: self.memory_mb, disk_gb: self.disk_gb }
    }

    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    pub fn event_target(&self) -> EventTarget {
        EventTarget::object("environment", self.id, &self.name)
            .in_org(self.org_id)
            .in_project(self.project_id)
            .in_environment(self.id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generated name that is taken gets the next number.
    #[test]
    fn a_generated_name_is_free() {
        let taken = ["shop-staging-1".to_owned(), "shop-staging-3".to_owned()];
        assert_eq!(generate_name("shop", Kind::Staging, &taken), "shop-staging-2");
        assert_eq!(generate_name("shop", Kind::Development, &taken), "shop-development-1");
    }

    /// PE-18.
    #[test]
    fn a_plan_limits_the_number_of_environments() {
        assert_eq!(Environment::require_plan_capacity(2, Some(3)), Ok(()));
        assert_eq!(Environment::require_plan_capacity(3, Some(3)), Err(Refused::Limit(3)));
        assert_eq!(Environment::require_plan_capacity(1_000, None), Ok(()));
    }
}
