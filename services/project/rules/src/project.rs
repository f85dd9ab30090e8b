//! Projects: the blueprint of an application. Programs run in its environments.

mod connection;
pub mod deletion;
pub mod edit;
pub mod overview;
pub mod registration;
pub mod repository_token;
mod wire;

use api::{error::Reason, project as pb};
use chassis::{Changed, Code, EventTarget, Grant, OrgId, ProjectId, Refusal, UserId};
use time::OffsetDateTime;

use crate::{
    connection::git::GitConnection,
    environment::production::DeployRole,
    types::{GitConnectionId, ProjectRef, ServerId},
    variable::Vault,
};
use repository_token::RepositoryToken;

/// State of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Active,
    /// Its environments are being destroyed; the row is deleted with the last one.
    Deleting,
}

chassis::text_column!(State { Active = "active", Deleting = "deleting" });

/// Supported Odoo versions (PE-4).
pub const ODOO_VERSIONS: [&str; 6] = ["14.0", "15.0", "16.0", "17.0", "18.0", "19.0"];

/// A project.
#[derive(Clone, Debug)]
pub struct Project {
    pub id: ProjectId,
    pub org_id: OrgId,
    pub name: String,
    pub slug: String,
    pub description: String,
    pub repository_url: String,
    /// Sealed access token of the repository; `None` with a connection.
    pub repository_token: Option<Vec<u8>>,
    /// Connection with which the repository is fetched.
    pub git_connection_id: Option<GitConnectionId>,
    pub default_branch: String,
    /// Empty if the program is not Odoo.
    pub odoo_version: String,
    /// Default server of new environments; `None`: a shared server.
    pub server_id: Option<ServerId>,
    pub production_deploy_min_role: DeployRole,
    pub state: State,
    pub environment_count: i64,
    /// Number of changes, from 1 on; its text is the etag.
    pub version: i64,
    pub creator_id: UserId,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// Fields of a project to be created.
#[derive(Clone)]
pub struct Draft {
    pub name: String,
    /// `None`: derived from the name.
    pub slug: Option<String>,
    pub description: String,
    pub repository_url: String,
    pub repository_token: Option<RepositoryToken>,
    /// `None`: the default connection, if it is for the repository and there is no token.
    pub git_connection_id: Option<GitConnectionId>,
    pub default_branch: String,
    pub odoo_version: String,
    pub server_id: Option<ServerId>,
    pub production_deploy_min_role: DeployRole,
}

/// Order of projects in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortOrder {
    /// Oldest first.
    CreateTime,
    Name,
    /// Last updated first.
    UpdateTime,
}

/// Refusals to create, change or delete a project.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the organization already has a project with the slug {0}; choose another slug")]
    SlugTaken(String),
    #[error("the project was changed by another call; read it again and repeat the change")]
    Stale,
    #[error("confirm_name is not the exact name of the project; nothing was changed")]
    WrongName,
    #[error("the project is being deleted and cannot be changed")]
    Deleting,
    #[error(
        "the project has active environments; stop or destroy them first: {}",
        .0.join(", ")
    )]
    ActiveEnvironments(Vec<String>),
    #[error(
        "repository_token must be empty, because the repository URL does not begin with https://; use an \
         https:// URL, or name a Git connection with a deploy key in git_connection_id"
    )]
    TokenWithoutHttps,
    #[error(
        "git_connection_id must be a connection for the server of the repository; this one is for {0}, so \
         name another connection, or create one with CreateGitConnection"
    )]
    ConnectionForOtherServer(String),
    #[error(
        "repository_token must be empty, because the project uses a Git connection; set git_connection_id to \
         empty to use a token instead"
    )]
    TokenWithConnection,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::SlugTaken(_) => Code::AlreadyExists,
            Self::Stale => Code::Aborted,
            Self::WrongName
            | Self::TokenWithoutHttps
            | Self::ConnectionForOtherServer(_)
            | Self::TokenWithConnection => Code::InvalidArgument,
            Self::Deleting | Self::ActiveEnvironments(_) => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::SlugTaken(_) => Reason::ProjectSlugTaken,
            Self::Stale => Reason::Conflict,
            Self::WrongName => Reason::ConfirmationMismatch,
            Self::Deleting => Reason::InvalidState,
            Self::ActiveEnvironments(_) => Reason::ProjectHasActiveEnvironments,
            Self::TokenWithoutHttps
            | Self::ConnectionForOtherServer(_)
            | Self::TokenWithConnection => Reason::InvalidField,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::SlugTaken(slug) => vec![("slug", slug.clone())],
            Self::ActiveEnvironments(ids) => vec![("environment_ids", ids.join(","))],
            _ => vec![],
        }
    }
}

impl Project {
    /// Creates a project in the organization of the grant (PE-1). `connection`: the one that the draft names,
    /// or the default one for its repository.
    pub fn create(
        grant: &Grant,
        id: ProjectId,
        slug: String,
        draft: Draft,
        connection: Option<&GitConnection>,
        vault: &Vault,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        let project_ref = ProjectRef { org_id: grant.org_id(), project_id: id };
        let seal = |it: RepositoryToken| it.seal(vault, project_ref, &draft.repository_url);
        if let Some(connection) = connection {
            draft.require_connection(connection)?;
        }
        let repository_token = draft.repository_token.map(seal).transpose()?;
        let project = Self {
            id,
            org_id: grant.org_id(),
            name: draft.name,
            slug,
            description: draft.description,
            repository_url: draft.repository_url,
            repository_token,
            git_connection_id: connection.map(|it| it.id),
            default_branch: draft.default_branch,
            odoo_version: draft.odoo_version,
            server_id: draft.server_id,
            production_deploy_min_role: draft.production_deploy_min_role,
            state: State::Active,
            environment_count: 0,
            version: 1,
            creator_id: grant.account().user_id,
            created_at: now,
            updated_at: now,
        };
        let event = pb::ProjectCreated { after: Some((&project).into()) };
        let target = project.event_target();
        Ok(Changed::new(project, &event, target))
    }

    pub fn project_ref(&self) -> ProjectRef {
        ProjectRef { org_id: self.org_id, project_id: self.id }
    }

    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    pub fn event_target(&self) -> EventTarget {
        self.project_ref().event_target(&self.name)
    }
}

/// Longest slug that is derived from a name, in bytes; the contract allows longer ones.
const DERIVED_SLUG_BYTES_MAX: usize = 44;

/// Shortest slug, in bytes.
const SLUG_BYTES_MIN: usize = 3;

/// Derives a slug from a name (PE-3).
pub fn slug_from_name(name: &str) -> String {
    let lower = name.to_lowercase();
    let words = lower.split(|it: char| !it.is_ascii_alphanumeric()).filter(|it| !it.is_empty());
    let mut slug = words.collect::<Vec<_>>().join("-");
    slug.truncate(DERIVED_SLUG_BYTES_MAX);
    if slug.len() < SLUG_BYTES_MIN {
        return format!("project-{slug}").trim_end_matches('-').to_owned();
    }
    slug
}

/// Returns the slug, with the lowest free number appended if it is taken.
pub fn unused_slug(slug: &str, taken: &[String]) -> String {
    let is_free = |it: &String| !taken.iter().any(|taken| taken.eq_ignore_ascii_case(it));
    let numbered = (2..).map(|number| format!("{slug}-{number}"));
    std::iter::once(slug.to_owned())
        .chain(numbered)
        .find(is_free)
        .expect("there are more numbers than taken slugs")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PE-3.
    #[test]
    fn a_slug_is_derived_from_the_name_and_numbered_if_taken() {
        assert_eq!(slug_from_name("My Shop!"), "my-shop");
        assert_eq!(slug_from_name("é"), "project");
        let taken = ["shop".to_owned(), "SHOP-2".to_owned()];
        assert_eq!(unused_slug("shop", &taken), "shop-3");
        assert_eq!(unused_slug("store", &taken), "store");
    }
}
