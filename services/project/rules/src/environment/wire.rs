//! Conversion between messages of the contract and environments.

use api::{check::Violation, project as pb};
use chassis::{Error, Result, mask, timestamp};

use super::{
    CloneSpec, CloneTarget, DEFAULT_RESOURCES, Draft, Environment, Kind, PauseReason, Promotion,
    State, edit::Patch, report::StoredReport,
};
use crate::{
    repository::branch_violation,
    resources::Resources,
    task::Observed,
    types::{TaskId, optional_id_text, parse_optional_id},
};

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

fn resources_or_default(it: Option<&pb::Resources>) -> Resources {
    it.map_or(DEFAULT_RESOURCES, Resources::from)
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
            hostname: it.hostname.clone(),
            last_error: it.last_error.clone(),
            create_time: Some(timestamp(it.created_at)),
            pause_reason: pause_reason.into(),
            server_id: optional_id_text(it.server_id),
            auto_deploy: it.auto_deploy,
            resources: Some(it.resources().into()),
            deployment_id: optional_id_text(it.deployment_id),
            update_time: Some(timestamp(it.updated_at)),
            etag: it.etag(),
            observed: it.program().map(pb::Observed::from).unwrap_or_default().into(),
            last_task_state: it.last_task_state.map(pb::TaskState::from).unwrap_or_default().into(),
        }
    }
}

impl TryFrom<&pb::CreateEnvironmentRequest> for Draft {
    type Error = Error;

    fn try_from(request: &pb::CreateEnvironmentRequest) -> Result<Self> {
        if !request.branch.is_empty()
            && let Some(violation) = branch_violation(&request.branch)
        {
            return Err(Error::invalid("branch", violation));
        }
        Ok(Self {
            name: request.name.trim().to_owned(),
            kind: request.kind().into(),
            branch: request.branch.clone(),
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

/// Health of an environment, from its last report.
pub fn environment_health(
    report: Option<StoredReport>,
    resources: Resources,
    last_deployment_id: Option<TaskId>,
) -> pb::EnvironmentHealth {
    let without_report = pb::EnvironmentHealth {
        resources: Some(resources.into()),
        last_deployment_id: optional_id_text(last_deployment_id),
        ..Default::default()
    };
    let Some(it) = report else { return without_report };
    pb::EnvironmentHealth {
        process_running: matches!(it.observed, Observed::Running | Observed::Paused),
        http_ok: it.http_ok,
        cpu_cores: it.cpu_cores,
        memory_bytes: it.memory_bytes,
        disk_bytes: it.disk_bytes,
        process_count: it.process_count,
        limits: it.limits,
        isolation: it.isolation,
        restart_count: it.restart_count,
        last_exit_code: it.last_exit_code,
        query_time: Some(timestamp(it.reported_at)),
        certificate: it.certificate_hostname.map(|hostname| pb::ServedCertificate {
            hostname,
            start_time: it.certificate_start_time.map(timestamp),
            end_time: it.certificate_end_time.map(timestamp),
        }),
        ..without_report
    }
}
