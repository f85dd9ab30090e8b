//! Environments: a branch of a project, deployed and isolated.
//!
//! | concept | file |
//! |---|---|
//! | which state allows what, and leads where | `machine` |
//! | what a task does to its environment, from its queue to its end | `tasks` |
//! | changes by hand | `edit` |
//! | whether a task may come to be | `admission` |
//! | the order of locks | `locking` |
//! | what is asked of an environment, over gRPC | `rpc`, `operate` |

pub(crate) mod admission;
pub(crate) mod edit;
pub(crate) mod locking;
pub(crate) mod machine;
mod operate;
pub(crate) mod rpc;
pub(crate) mod store;
pub(crate) mod tasks;
pub(crate) mod wire;

use api::{error::Reason, project as pb};
use chassis::{About, Changed, Code, OrgId, ProjectGrant, ProjectId, Refusal};
use time::OffsetDateTime;

use crate::{
    project::Project,
    server::{Room, ServerId},
    task::TaskId,
};

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
    Stopped,
    Paused,
    Cloning,
    Error,
    Destroying,
    /// Never stored.
    Deleted,
}

/// Who paused an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum PauseReason {
    User,
    Quota,
    Billing,
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
    /// The state to which a cancelled task leads back.
    pub(crate) stable_state: State,
    /// Present if, and only if, it is PAUSED.
    pub(crate) pause_reason: Option<PauseReason>,
    /// Whether it goes on when the platform lifts its pause.
    pub(crate) resumes: bool,
    pub(crate) branch: String,
    pub(crate) commit: String,
    pub(crate) url: String,
    pub(crate) last_error: String,
    pub(crate) auto_deploy: bool,
    pub(crate) server_id: Option<ServerId>,
    pub(crate) cpu_millis: i32,
    pub(crate) memory_mb: i32,
    pub(crate) disk_gb: i32,
    /// The task that deployed what is there.
    pub(crate) deployment_id: Option<TaskId>,
    pub(crate) version: i64,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) updated_at: OffsetDateTime,
}

/// What a person gives to create an environment.
#[derive(Clone)]
pub(crate) struct Draft {
    /// Empty: made from the project and the kind.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// `None`: the project's default.
    pub(crate) branch: Option<String>,
    pub(crate) server_id: Option<ServerId>,
    pub(crate) auto_deploy: bool,
    pub(crate) room: Room,
}

/// What an environment may use unless somebody says otherwise.
pub(crate) const ROOM: Room = Room { cpu_millis: 500, memory_mb: 512, disk_gb: 5 };

/// Why an environment does not come to be, or does not do what is asked of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the project has an environment with this name")]
    NameTaken,
    #[error("the project has a production environment")]
    ProductionExists,
    #[error("the plan allows {0} environments; delete one or upgrade")]
    Limit(i64),
    #[error("another task of this environment is queued or running: {0}")]
    TaskInProgress(String),
    #[error("somebody changed the environment meanwhile; read it again")]
    Stale,
    #[error("this is not the environment's exact name; nothing was done")]
    WrongName,
    #[error("this is a production environment: set allow_production to destroy it")]
    ProductionProtected,
    #[error("both environments must be on the same server")]
    AcrossServers,
    #[error("there is no earlier good deployment to go back to")]
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
            _ => Code::FailedPrecondition,
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
    /// As it stands in names that are made.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

impl State {
    /// As people write it.
    pub(crate) fn word(self) -> &'static str {
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

/// `<project-slug>-<kind>-<n>` with the first number that nobody took.
pub(crate) fn made_name(slug: &str, kind: Kind, taken: &[String]) -> String {
    let names = (1..).map(|number| format!("{slug}-{}-{number}", kind.word()));
    names.into_iter().find(|it| !taken.contains(it)).expect("numbers do not end")
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
        project: &Project,
        draft: Draft,
        name: String,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        let it = Self {
            id: EnvironmentId::new(),
            org_id: grant.org_id(),
            project_id: grant.project_id(),
            name,
            kind: draft.kind,
            state: State::Pending,
            stable_state: State::Pending,
            pause_reason: None,
            resumes: false,
            branch: draft.branch.unwrap_or_else(|| project.default_branch.clone()),
            commit: String::new(),
            url: String::new(),
            last_error: String::new(),
            auto_deploy: draft.auto_deploy,
            server_id: draft.server_id,
            cpu_millis: draft.room.cpu_millis,
            memory_mb: draft.room.memory_mb,
            disk_gb: draft.room.disk_gb,
            deployment_id: None,
            version: 1,
            created_at: now,
            updated_at: now,
        };
        let event = pb::EnvironmentCreated { after: Some((&it).into()) };
        let about = it.about();
        Changed::new(it, &event, about)
    }

    /// What it takes of its server.
    pub(crate) fn room(&self) -> Room {
        Room { cpu_millis: self.cpu_millis, memory_mb: self.memory_mb, disk_gb: self.disk_gb }
    }

    pub(crate) fn etag(&self) -> String {
        self.version.to_string()
    }

    pub(crate) fn about(&self) -> About {
        About::object("environment", self.id, &self.name)
            .of(self.org_id)
            .in_project(self.project_id)
            .in_environment(self.id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2.7: a made name that is taken gets the next number.
    #[test]
    fn a_made_name_is_free() {
        let taken = ["shop-staging-1".to_owned(), "shop-staging-3".to_owned()];
        assert_eq!(made_name("shop", Kind::Staging, &taken), "shop-staging-2");
        assert_eq!(made_name("shop", Kind::Development, &taken), "shop-development-1");
    }

    /// PE-18.
    #[test]
    fn a_plan_has_room_for_so_many() {
        assert_eq!(Environment::fits(2, Some(3)), Ok(()));
        assert_eq!(Environment::fits(3, Some(3)), Err(Refused::Limit(3)));
        assert_eq!(Environment::fits(1_000, None), Ok(()));
    }
}
