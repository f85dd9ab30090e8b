//! Between the contract and the rules.

use api::{check::Violation, project as pb};
use chassis::{Error, Result, mask, timestamp};

use super::{DeployRole, Draft, ODOO_VERSIONS, Project, State, edit::Patch};
use crate::{
    environment::wire::optional,
    foreign_text::without_credentials,
    repository::{wrong_branch, wrong_url},
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
            repository_url: without_credentials(&it.repository_url),
            default_branch: it.default_branch.clone(),
            creator_id: it.creator_id.into(),
            create_time: Some(timestamp(it.created_at)),
            description: it.description.clone(),
            odoo_version: it.odoo_version.clone(),
            server_id: it.server_id.map(String::from).unwrap_or_default(),
            production_deploy_min_role: role.into(),
            state: state.into(),
            environment_count: i32::try_from(it.environment_count).unwrap_or(i32::MAX),
            update_time: Some(timestamp(it.updated_at)),
            etag: it.etag(),
        }
    }
}

/// DEVELOPER unless it says otherwise.
fn role(it: pb::DeployRole) -> DeployRole {
    match it {
        pb::DeployRole::Admin => DeployRole::Admin,
        pb::DeployRole::Developer | pb::DeployRole::Unspecified => DeployRole::Developer,
    }
}

fn wrong_version(version: &str) -> Option<&'static str> {
    let known = version.is_empty() || ODOO_VERSIONS.contains(&version);
    (!known).then_some("must be one of 14.0, 15.0, 16.0, 17.0, 18.0, 19.0")
}

fn check(wrong: &[(&str, Option<&str>)]) -> Result<()> {
    let violations: Vec<_> = wrong
        .iter()
        .filter_map(|(field, wrong)| {
            Some(Violation { field: (*field).to_owned(), description: (*wrong)?.to_owned() })
        })
        .collect();
    if violations.is_empty() { Ok(()) } else { Err(Error::Invalid(violations)) }
}

impl Draft {
    pub(super) fn of(request: &pb::CreateProjectRequest, local_allowed: bool) -> Result<Self> {
        let default_branch = Some(request.default_branch.clone()).filter(|it| !it.is_empty());
        let default_branch = default_branch.unwrap_or_else(|| "main".to_owned());
        check(&[
            ("repository_url", wrong_url(&request.repository_url, local_allowed)),
            ("default_branch", wrong_branch(&default_branch)),
            ("odoo_version", wrong_version(&request.odoo_version)),
        ])?;
        Ok(Self {
            name: request.name.trim().to_owned(),
            slug: Some(request.slug.clone()).filter(|it| !it.is_empty()),
            description: request.description.clone(),
            repository_url: request.repository_url.clone(),
            default_branch,
            odoo_version: request.odoo_version.clone(),
            server_id: optional(&request.server_id)?,
            production_deploy_min_role: role(request.production_deploy_min_role()),
        })
    }
}

/// What the mask of a change may name.
const PATHS: [&str; 6] = [
    "name",
    "description",
    "default_branch",
    "odoo_version",
    "server_id",
    "production_deploy_min_role",
];

/// What a person wants to be different.
pub(super) fn patch(it: &pb::UpdateProjectRequest) -> Result<Patch> {
    let paths = mask::paths(it.update_mask.as_ref(), &PATHS)?;
    let named = |path: &str| paths.contains(&path);
    let empty = it.name.trim().is_empty().then_some("must not be empty");
    check(&[
        ("name", empty.filter(|_| named("name"))),
        ("default_branch", wrong_branch(&it.default_branch).filter(|_| named("default_branch"))),
        ("odoo_version", wrong_version(&it.odoo_version).filter(|_| named("odoo_version"))),
    ])?;
    let text = |path: &str, value: &str| named(path).then(|| value.trim().to_owned());
    Ok(Patch {
        name: text("name", &it.name),
        description: text("description", &it.description),
        default_branch: text("default_branch", &it.default_branch),
        odoo_version: text("odoo_version", &it.odoo_version),
        server_id: named("server_id").then(|| optional(&it.server_id)).transpose()?,
        production_deploy_min_role: named("production_deploy_min_role")
            .then(|| role(it.production_deploy_min_role())),
    })
}
