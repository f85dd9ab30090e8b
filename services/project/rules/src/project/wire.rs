//! Conversion between messages of the contract and projects.

use api::{
    check::Violation,
    project::{self as pb, ProjectOrder},
};
use chassis::{Error, Result, foreign_text::mask_credentials, mask, timestamp};

use super::{Draft, ODOO_VERSIONS, Project, SortOrder, State, edit::Patch};
use crate::{
    environment::production::DeployRole,
    repository::{branch_violation, url_violation},
    types::{optional_id_text, parse_optional_id},
};

impl From<&Project> for pb::Project {
    fn from(it: &Project) -> Self {
        let state = match it.state {
            State::Active => pb::ProjectState::Active,
            State::Deleting => pb::ProjectState::Deleting,
        };
        let role = match it.production_deploy_min_role {
            DeployRole::Developer => pb::DeployRole::Developer,
            DeployRole::Admin => pb::DeployRole::Admin,
        };
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            name: it.name.clone(),
            slug: it.slug.clone(),
            repository_url: mask_credentials(&it.repository_url),
            default_branch: it.default_branch.clone(),
            creator_id: it.creator_id.into(),
            create_time: Some(timestamp(it.created_at)),
            description: it.description.clone(),
            odoo_version: it.odoo_version.clone(),
            server_id: optional_id_text(it.server_id),
            production_deploy_min_role: role.into(),
            state: state.into(),
            environment_count: i32::try_from(it.environment_count).unwrap_or(i32::MAX),
            update_time: Some(timestamp(it.updated_at)),
            etag: it.etag(),
        }
    }
}

/// UNSPECIFIED means DEVELOPER.
impl From<pb::DeployRole> for DeployRole {
    fn from(it: pb::DeployRole) -> Self {
        match it {
            pb::DeployRole::Admin => Self::Admin,
            pb::DeployRole::Developer | pb::DeployRole::Unspecified => Self::Developer,
        }
    }
}

/// UNSPECIFIED means CREATE_TIME.
impl From<ProjectOrder> for SortOrder {
    fn from(it: ProjectOrder) -> Self {
        match it {
            ProjectOrder::Unspecified | ProjectOrder::CreateTime => Self::CreateTime,
            ProjectOrder::Name => Self::Name,
            ProjectOrder::UpdateTime => Self::UpdateTime,
        }
    }
}

fn odoo_version_violation(version: &str) -> Option<&'static str> {
    let is_supported = version.is_empty() || ODOO_VERSIONS.contains(&version);
    (!is_supported).then_some("must be empty or one of 14.0, 15.0, 16.0, 17.0, 18.0, 19.0")
}

/// Result of checking one field: its name, and the violation, if there is one.
type FieldCheck<'a> = (&'a str, Option<&'a str>);

/// Refuses with every violation at once.
fn require_valid(checks: &[FieldCheck<'_>]) -> Result<()> {
    let violations: Vec<_> = checks
        .iter()
        .filter_map(|(field, violation)| {
            Some(Violation { field: (*field).to_owned(), description: (*violation)?.to_owned() })
        })
        .collect();
    if violations.is_empty() { Ok(()) } else { Err(Error::Invalid(violations)) }
}

impl Draft {
    /// Converts a request. `allow_local`: the repository may be a path on the runner's machine.
    pub fn from_request(request: &pb::CreateProjectRequest, allow_local: bool) -> Result<Self> {
        let default_branch = Some(request.default_branch.clone()).filter(|it| !it.is_empty());
        let default_branch = default_branch.unwrap_or_else(|| "main".to_owned());
        require_valid(&[
            ("repository_url", url_violation(&request.repository_url, allow_local)),
            ("default_branch", branch_violation(&default_branch)),
            ("odoo_version", odoo_version_violation(&request.odoo_version)),
        ])?;
        Ok(Self {
            name: request.name.trim().to_owned(),
            slug: Some(request.slug.clone()).filter(|it| !it.is_empty()),
            description: request.description.clone(),
            repository_url: request.repository_url.clone(),
            default_branch,
            odoo_version: request.odoo_version.clone(),
            server_id: parse_optional_id(&request.server_id)?,
            production_deploy_min_role: request.production_deploy_min_role().into(),
        })
    }
}

/// Fields that an update mask may name.
const UPDATABLE_FIELDS: [&str; 6] = [
    "name",
    "description",
    "default_branch",
    "odoo_version",
    "server_id",
    "production_deploy_min_role",
];

impl TryFrom<&pb::UpdateProjectRequest> for Patch {
    type Error = Error;

    fn try_from(it: &pb::UpdateProjectRequest) -> Result<Self> {
        let paths = mask::paths(it.update_mask.as_ref(), &UPDATABLE_FIELDS)?;
        let is_named = |path: &str| paths.contains(&path);
        let name_violation = it.name.trim().is_empty().then_some("must not be empty");
        let branch_violation = branch_violation(&it.default_branch);
        let version_violation = odoo_version_violation(&it.odoo_version);
        require_valid(&[
            ("name", name_violation.filter(|_| is_named("name"))),
            ("default_branch", branch_violation.filter(|_| is_named("default_branch"))),
            ("odoo_version", version_violation.filter(|_| is_named("odoo_version"))),
        ])?;
        let text = |path: &str, value: &str| is_named(path).then(|| value.trim().to_owned());
        Ok(Self {
            name: text("name", &it.name),
            description: text("description", &it.description),
            default_branch: text("default_branch", &it.default_branch),
            odoo_version: text("odoo_version", &it.odoo_version),
            server_id: is_named("server_id")
                .then(|| parse_optional_id(&it.server_id))
                .transpose()?,
            production_deploy_min_role: is_named("production_deploy_min_role")
                .then(|| it.production_deploy_min_role().into()),
        })
    }
}
