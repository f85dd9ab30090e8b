//! Conversion between messages of the contract and projects.

use api::{
    check::Violation,
    project::{self as pb, ProjectOrder},
};
use chassis::{Error, Result, credential_mask::mask_url, mask, timestamp};

use super::{
    Draft, ODOO_VERSIONS, Project, SortOrder, State,
    edit::{NewRepository, Patch},
    repository_token::{RepositoryToken, TokenChange},
};
use crate::{
    environment::production::DeployRole,
    repository::{CredentialInUrl, branch_violation, has_credential, token_scope, url_violation},
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
            repository_url: mask_url(&it.repository_url),
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
            has_repository_token: it.repository_token.is_some(),
            git_connection_id: optional_id_text(it.git_connection_id),
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

/// Checks of the repository and its token. A URL with a credential is refused before other violations.
/// `allow_local`: the repository may be on the runner's machine.
fn repository_checks(
    url: &str,
    token: &str,
    allow_local: bool,
) -> Result<[FieldCheck<'static>; 2]> {
    if has_credential(url) {
        return Err(CredentialInUrl("repository_url").into());
    }
    let url_violation = url_violation(url, allow_local);
    let is_unusable = !token.is_empty() && url_violation.is_none() && token_scope(url).is_none();
    let token_violation =
        is_unusable.then_some("must be empty, unless repository_url begins with https://");
    Ok([("repository_url", url_violation), ("repository_token", token_violation)])
}

impl NewRepository {
    /// Converts a request. `allow_local`: the repository may be on the runner's machine.
    pub fn from_request(request: &pb::ChangeRepositoryRequest, allow_local: bool) -> Result<Self> {
        let url = &request.repository_url;
        require_valid(&repository_checks(url, &request.repository_token, allow_local)?)?;
        let token = RepositoryToken::new(&request.repository_token);
        let git_connection_id = parse_optional_id(&request.git_connection_id)?;
        Ok(Self { url: url.clone(), token, git_connection_id })
    }
}

impl Draft {
    /// Converts a request. `allow_local`: the repository may be a path on the runner's machine.
    pub fn from_request(request: &pb::CreateProjectRequest, allow_local: bool) -> Result<Self> {
        let default_branch = Some(request.default_branch.clone()).filter(|it| !it.is_empty());
        let default_branch = default_branch.unwrap_or_else(|| "main".to_owned());
        let [url, token] =
            repository_checks(&request.repository_url, &request.repository_token, allow_local)?;
        require_valid(&[
            url,
            token,
            ("default_branch", branch_violation(&default_branch)),
            ("odoo_version", odoo_version_violation(&request.odoo_version)),
        ])?;
        Ok(Self {
            name: request.name.trim().to_owned(),
            slug: Some(request.slug.clone()).filter(|it| !it.is_empty()),
            description: request.description.clone(),
            repository_url: request.repository_url.clone(),
            repository_token: RepositoryToken::new(&request.repository_token),
            git_connection_id: parse_optional_id(&request.git_connection_id)?,
            default_branch,
            odoo_version: request.odoo_version.clone(),
            server_id: parse_optional_id(&request.server_id)?,
            production_deploy_min_role: request.production_deploy_min_role().into(),
        })
    }
}

/// Fields that an update mask may name.
const UPDATABLE_FIELDS: [&str; 8] = [
    "name",
    "description",
    "default_branch",
    "odoo_version",
    "server_id",
    "production_deploy_min_role",
    "repository_token",
    "git_connection_id",
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
        let token_change = match RepositoryToken::new(&it.repository_token) {
            Some(_) if it.remove_repository_token => {
                let description = "must be false, unless repository_token is empty";
                return Err(Error::invalid("remove_repository_token", description));
            }
            Some(token) => Some(TokenChange::Set(token)),
            None => it.remove_repository_token.then_some(TokenChange::Remove),
        };
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
            repository_token: token_change.filter(|_| is_named("repository_token")),
            git_connection_id: is_named("git_connection_id")
                .then(|| parse_optional_id(&it.git_connection_id))
                .transpose()?,
        })
    }
}
