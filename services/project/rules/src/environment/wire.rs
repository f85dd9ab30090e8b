//! Conversion between messages of the contract and environments.

use api::{check::Violation, project as pb};
use chassis::{Error, Result, mask, timestamp};

use super::{
    DEFAULT_RESOURCES, Draft, Environment, Kind, PauseReason, State,
    commands::{
        Promotion,
        create::{CloneSpec, CloneTarget},
    },
    edit::Patch,
};
use crate::{project::Project, repository::branch_violation, server::Resources, task::Task};

impl From<Kind> for pb::EnvironmentKind {
    fn from(it: Kind) -> Self {
        match it {
            Kind::Development => Self::Development,
            Kind::Staging => Self::Staging,
            Kind::Production => Self::Production,
        }
    }
}

/// UNSPECIFIED means DEVELOPMENT.
impl From<pb::EnvironmentKind> for Kind {
    fn from(it: pb::EnvironmentKind) -> Self {
        match it {
            pb::EnvironmentKind::Unspecified | pb::EnvironmentKind::Development => {
                Self::Development
            }
            pb::EnvironmentKind::Staging => Self::Staging,
            pb::EnvironmentKind::Production => Self::Production,
        }
    }
}

/// UNSPECIFIED means USER.
impl From<pb::PauseReason> for PauseReason {
    fn from(it: pb::PauseReason) -> Self {
        match it {
            pb::PauseReason::Unspecified | pb::PauseReason::User => Self::User,
            pb::PauseReason::Quota => Self::Quota,
            pb::PauseReason::Billing => Self::Billing,
        }
    }
}

/// Converts thousandths of a core to cores.
pub(crate) fn cores(millis: i32) -> f64 {
    f64::from(millis) / 1_000.0
}

/// Converts cores to thousandths of a core.
#[expect(clippy::cast_possible_truncation, reason = "the contract allows at most 1,000 cores")]
pub(crate) fn cpu_millis(cores: f64) -> i32 {
    (cores * 1_000.0).round() as i32
}

impl From<Resources> for pb::Resources {
    fn from(it: Resources) -> Self {
        Self { cpu_cores: cores(it.cpu_millis), memory_mb: it.memory_mb, disk_gb: it.disk_gb }
    }
}

impl From<&pb::Resources> for Resources {
    fn from(it: &pb::Resources) -> Self {
        Self { cpu_millis: cpu_millis(it.cpu_cores), memory_mb: it.memory_mb, disk_gb: it.disk_gb }
    }
}

fn resources_or_default(it: Option<&pb::Resources>) -> Resources {
    it.map_or(DEFAULT_RESOURCES, Resources::from)
}

/// Variables that the suite sets for a program, in addition to those of the environment.
pub(crate) fn builtin_variables(
    project: &Project,
    environment: &Environment,
    task: &Task,
) -> Vec<pb::Variable> {
    let variables = [
        ("ENVIRONMENT", environment.kind.as_str().to_owned()),
        ("ENVIRONMENT_NAME", environment.name.clone()),
        ("ODOO_VERSION", project.odoo_version.clone()),
        ("MODULES", task.modules.join(",")),
    ];
    variables
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| pb::Variable { name: name.to_owned(), value })
        .collect()
}

impl From<&Environment> for pb::Environment {
    fn from(it: &Environment) -> Self {
        let state = match it.state {
            State::Pending => pb::EnvironmentState::Pending,
            State::Deploying => pb::EnvironmentState::Deploying,
            State::Running => pb::EnvironmentState::Running,
            State::Stopped => pb::EnvironmentState::Stopped,
            State::Paused => pb::EnvironmentState::Paused,
            State::Cloning => pb::EnvironmentState::Cloning,
            State::Error => pb::EnvironmentState::Error,
            State::Destroying => pb::EnvironmentState::Destroying,
            State::Deleted => pb::EnvironmentState::Deleted,
        };
        let pause_reason = match it.pause_reason {
            None => pb::PauseReason::Unspecified,
            Some(PauseReason::User) => pb::PauseReason::User,
            Some(PauseReason::Quota) => pb::PauseReason::Quota,
            Some(PauseReason::Billing) => pb::PauseReason::Billing,
        };
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            project_id: it.project_id.into(),
            name: it.name.clone(),
            kind: pb::EnvironmentKind::from(it.kind).into(),
            state: state.into(),
            branch: it.branch.clone(),
            commit: it.commit.clone(),
            url: it.url.clone(),
            last_error: it.last_error.clone(),
            create_time: Some(timestamp(it.created_at)),
            pause_reason: pause_reason.into(),
            server_id: it.server_id.map(String::from).unwrap_or_default(),
            auto_deploy: it.auto_deploy,
            resources: Some(it.resources().into()),
            deployment_id: it.deployment_id.map(String::from).unwrap_or_default(),
            update_time: Some(timestamp(it.updated_at)),
            etag: it.etag(),
        }
    }
}

/// Parses an id; empty text is `None`.
pub(crate) fn parse_optional_id<T: std::str::FromStr<Err = Error>>(
    text: &str,
) -> Result<Option<T>> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

impl TryFrom<&pb::CreateEnvironmentRequest> for Draft {
    type Error = Error;

    fn try_from(request: &pb::CreateEnvironmentRequest) -> Result<Self> {
        let branch = Some(request.branch.clone()).filter(|it| !it.is_empty());
        if let Some(violation) = branch.as_deref().and_then(branch_violation) {
            return Err(Error::invalid("branch", violation));
        }
        Ok(Self {
            name: request.name.trim().to_owned(),
            kind: request.kind().into(),
            branch,
            server_id: parse_optional_id(&request.server_id)?,
            auto_deploy: request.auto_deploy,
            resources: resources_or_default(request.resources.as_ref()),
        })
    }
}

impl TryFrom<&pb::CloneEnvironmentRequest> for CloneSpec {
    type Error = Error;

    fn try_from(request: &pb::CloneEnvironmentRequest) -> Result<Self> {
        let target = match parse_optional_id(&request.target_environment_id)? {
            Some(id) => CloneTarget::Existing { id, confirm_name: request.confirm_name.clone() },
            None => CloneTarget::New {
                name: request.name.trim().to_owned(),
                kind: request.kind().into(),
            },
        };
        Ok(Self { source_id: request.environment_id.parse()?, target })
    }
}

impl TryFrom<&pb::PromoteEnvironmentRequest> for Promotion {
    type Error = Error;

    fn try_from(request: &pb::PromoteEnvironmentRequest) -> Result<Self> {
        Ok(Self {
            source_id: request.environment_id.parse()?,
            target_id: parse_optional_id(&request.target_environment_id)?,
        })
    }
}

/// Fields that an update mask may name.
const UPDATABLE_FIELDS: [&str; 5] = ["name", "branch", "auto_deploy", "resources", "server_id"];

impl TryFrom<&pb::UpdateEnvironmentRequest> for Patch {
    type Error = Error;

    fn try_from(it: &pb::UpdateEnvironmentRequest) -> Result<Self> {
        let mut patch = Self::default();
        let mut violations = vec![];
        let mut refuse = |field: &str, description: &str| {
            violations
                .push(Violation { field: field.to_owned(), description: description.to_owned() });
        };
        for path in mask::paths(it.update_mask.as_ref(), &UPDATABLE_FIELDS)? {
            match path {
                "name" if it.name.trim().is_empty() => refuse("name", "must not be empty"),
                "name" => patch.name = Some(it.name.trim().to_owned()),
                "branch" => match branch_violation(&it.branch) {
                    Some(description) => refuse("branch", description),
                    None => patch.branch = Some(it.branch.clone()),
                },
                "auto_deploy" => patch.auto_deploy = Some(it.auto_deploy),
                "resources" => {
                    patch.resources = Some(resources_or_default(it.resources.as_ref()));
                }
                _ if it.server_id.is_empty() => refuse("server_id", "must name a server"),
                _ => patch.server_id = Some(it.server_id.parse()?),
            }
        }
        if violations.is_empty() { Ok(patch) } else { Err(Error::Invalid(violations)) }
    }
}
