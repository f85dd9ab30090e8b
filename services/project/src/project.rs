//! Projects: the blueprint of one application. Nothing runs in a project.

pub(crate) mod deletion;
pub(crate) mod edit;
mod listing;
mod overview;
pub(crate) mod production;
pub(crate) mod rpc;
pub(crate) mod store;
pub(crate) mod wire;

use api::{error::Reason, project as pb};
use chassis::{About, Changed, Code, Grant, OrgId, ProjectId, Refusal, UserId};
use time::OffsetDateTime;

use crate::server::ServerId;

/// Where a project is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum State {
    Active,
    Deleting,
}

/// The least role that deploys to production (PE-45).
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum DeployRole {
    Developer,
    Admin,
}

/// The versions of Odoo that can be chosen (PE-4).
pub(crate) const ODOO_VERSIONS: [&str; 6] = ["14.0", "15.0", "16.0", "17.0", "18.0", "19.0"];

/// A project.
#[derive(Clone, Debug)]
pub(crate) struct Project {
    pub(crate) id: ProjectId,
    pub(crate) org_id: OrgId,
    pub(crate) name: String,
    pub(crate) slug: String,
    pub(crate) description: String,
    pub(crate) repository_url: String,
    pub(crate) default_branch: String,
    /// Empty: not an Odoo.
    pub(crate) odoo_version: String,
    pub(crate) server_id: Option<ServerId>,
    pub(crate) production_deploy_min_role: DeployRole,
    pub(crate) state: State,
    pub(crate) environment_count: i64,
    pub(crate) version: i64,
    pub(crate) creator_id: UserId,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) updated_at: OffsetDateTime,
}

/// What a person gives to create a project.
pub(crate) struct Draft {
    pub(crate) name: String,
    /// `None`: made from the name.
    pub(crate) slug: Option<String>,
    pub(crate) description: String,
    pub(crate) repository_url: String,
    pub(crate) default_branch: String,
    pub(crate) odoo_version: String,
    pub(crate) server_id: Option<ServerId>,
    pub(crate) production_deploy_min_role: DeployRole,
}

/// Why a project does not come to be, change, or go.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the organization has a project with the slug {0}")]
    SlugTaken(String),
    #[error("somebody changed the project meanwhile; read it again")]
    Stale,
    #[error("this is not the project's exact name; nothing was done")]
    WrongName,
    #[error("the project is being deleted")]
    Deleting,
    #[error("stop or destroy its running environments first: {}", .0.join(", "))]
    ActiveEnvironments(Vec<String>),
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::SlugTaken(_) => Code::AlreadyExists,
            Self::Stale => Code::Aborted,
            Self::WrongName => Code::InvalidArgument,
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
    /// A new project of the organization in which its creator may create one (PE-1).
    pub(crate) fn create(
        grant: &Grant,
        id: ProjectId,
        slug: String,
        draft: Draft,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        let it = Self {
            id,
            org_id: grant.org_id(),
            name: draft.name,
            slug,
            description: draft.description,
            repository_url: draft.repository_url,
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
        let event = pb::ProjectCreated { after: Some((&it).into()) };
        let about = it.about();
        Changed::new(it, &event, about)
    }

    pub(crate) fn etag(&self) -> String {
        self.version.to_string()
    }

    pub(crate) fn about(&self) -> About {
        About::object("project", self.id, &self.name).of(self.org_id).in_project(self.id)
    }
}

/// A slug from a name (PE-3).
pub(crate) fn slug(name: &str) -> String {
    let lower = name.to_lowercase();
    let words = lower.split(|it: char| !it.is_ascii_alphanumeric()).filter(|it| !it.is_empty());
    let mut slug = words.collect::<Vec<_>>().join("-");
    slug.truncate(44);
    if slug.len() < 3 { format!("project-{slug}").trim_end_matches('-').to_owned() } else { slug }
}

/// The slug itself, or with the first number that nobody took.
pub(crate) fn free_slug(wanted: &str, taken: &[String]) -> String {
    let free = |it: &String| !taken.iter().any(|taken| taken.eq_ignore_ascii_case(it));
    let numbered = (2..).map(|number| format!("{wanted}-{number}"));
    std::iter::once(wanted.to_owned()).chain(numbered).find(free).expect("numbers do not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PE-3.
    #[test]
    fn a_slug_is_made_from_the_name_and_numbered_until_it_is_free() {
        assert_eq!(slug("My Shop!"), "my-shop");
        assert_eq!(slug("é"), "project");
        let taken = ["shop".to_owned(), "SHOP-2".to_owned()];
        assert_eq!(free_slug("shop", &taken), "shop-3");
        assert_eq!(free_slug("store", &taken), "store");
    }
}
