//! Between the contract and the rules.

use api::{check::Violation, project as pb};
use chassis::{Error, Result, mask, timestamp};

use super::{Draft, Environment, Kind, PauseReason, ROOM, State, edit::Patch};
use crate::{project::Project, repository::wrong_branch, server::Room, task::Task};

impl From<Kind> for pb::EnvironmentKind {
    fn from(it: Kind) -> Self {
        match it {
            Kind::Development => Self::Development,
            Kind::Staging => Self::Staging,
            Kind::Production => Self::Production,
        }
    }
}

/// DEVELOPMENT unless it says otherwise.
pub(super) fn kind(it: pb::EnvironmentKind) -> Kind {
    match it {
        pb::EnvironmentKind::Unspecified | pb::EnvironmentKind::Development => Kind::Development,
        pb::EnvironmentKind::Staging => Kind::Staging,
        pb::EnvironmentKind::Production => Kind::Production,
    }
}

/// Cores, from thousandths.
pub(crate) fn cores(millis: i32) -> f64 {
    f64::from(millis) / 1_000.0
}

/// Thousandths of a core; the contract keeps them few.
#[expect(clippy::cast_possible_truncation, reason = "at most a thousand cores")]
pub(crate) fn millis(cores: f64) -> i32 {
    (cores * 1_000.0).round() as i32
}

pub(crate) fn resources(it: Room) -> pb::Resources {
    pb::Resources { cpu_cores: cores(it.cpu_millis), memory_mb: it.memory_mb, disk_gb: it.disk_gb }
}

fn room(it: &pb::Resources) -> Room {
    Room { cpu_millis: millis(it.cpu_cores), memory_mb: it.memory_mb, disk_gb: it.disk_gb }
}

/// What a program sees besides its own variables.
pub(crate) fn variables(
    project: &Project,
    environment: &Environment,
    task: &Task,
) -> Vec<pb::Variable> {
    let all = [
        ("ENVIRONMENT", environment.kind.word().to_owned()),
        ("ENVIRONMENT_NAME", environment.name.clone()),
        ("ODOO_VERSION", project.odoo_version.clone()),
        ("MODULES", task.modules.join(",")),
    ];
    let given = all.into_iter().filter(|it| !it.1.is_empty());
    given.map(|(name, value)| pb::Variable { name: name.to_owned(), value }).collect()
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
            resources: Some(resources(it.room())),
            deployment_id: it.deployment_id.map(String::from).unwrap_or_default(),
            update_time: Some(timestamp(it.updated_at)),
            etag: it.etag(),
        }
    }
}

/// The id, unless the text is empty.
pub(crate) fn optional<T: std::str::FromStr<Err = Error>>(text: &str) -> Result<Option<T>> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

impl TryFrom<&pb::CreateEnvironmentRequest> for Draft {
    type Error = Error;

    fn try_from(request: &pb::CreateEnvironmentRequest) -> Result<Self> {
        let branch = Some(request.branch.clone()).filter(|it| !it.is_empty());
        if let Some(wrong) = branch.as_deref().and_then(wrong_branch) {
            return Err(Error::invalid("branch", wrong));
        }
        Ok(Self {
            name: request.name.trim().to_owned(),
            kind: kind(request.kind()),
            branch,
            server_id: optional(&request.server_id)?,
            auto_deploy: request.auto_deploy,
            room: request.resources.as_ref().map_or(ROOM, room),
        })
    }
}

/// What the mask of a change may name.
const PATHS: [&str; 5] = ["name", "branch", "auto_deploy", "resources", "server_id"];

/// What a person wants to be different.
pub(super) fn patch(it: &pb::UpdateEnvironmentRequest) -> Result<Patch> {
    let (mut patch, mut wrong) = (Patch::default(), vec![]);
    let mut say = |field: &str, description: &str| {
        wrong.push(Violation { field: field.to_owned(), description: description.to_owned() });
    };
    for path in mask::paths(it.update_mask.as_ref(), &PATHS)? {
        match path {
            "name" if it.name.trim().is_empty() => say("name", "must not be empty"),
            "name" => patch.name = Some(it.name.trim().to_owned()),
            "branch" => match wrong_branch(&it.branch) {
                Some(description) => say("branch", description),
                None => patch.branch = Some(it.branch.clone()),
            },
            "auto_deploy" => patch.auto_deploy = Some(it.auto_deploy),
            "resources" => patch.room = Some(it.resources.as_ref().map_or(ROOM, room)),
            _ if it.server_id.is_empty() => say("server_id", "must name a server"),
            _ => patch.server_id = Some(it.server_id.parse()?),
        }
    }
    if wrong.is_empty() { Ok(patch) } else { Err(Error::Invalid(wrong)) }
}
