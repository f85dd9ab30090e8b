//! Projects: the blueprint of one application. Nothing runs in a project.

pub(crate) mod rpc;
pub(crate) mod store;
mod wire;

use api::{error::Reason, project as pb};
use chassis::{About, Changed, Code, Grant, OrgId, ProjectId, Refusal, UserId};
use time::OffsetDateTime;

/// A project.
#[derive(Clone, Debug)]
pub(crate) struct Project {
    pub(crate) id: ProjectId,
    pub(crate) org_id: OrgId,
    pub(crate) name: String,
    pub(crate) slug: String,
    pub(crate) repository_url: String,
    pub(crate) default_branch: String,
    pub(crate) creator_id: UserId,
    pub(crate) created_at: OffsetDateTime,
}

/// What a person gives to create a project.
pub(crate) struct Draft {
    pub(crate) name: String,
    /// `None`: made from the name.
    pub(crate) slug: Option<String>,
    pub(crate) repository_url: String,
    pub(crate) default_branch: String,
}

/// Why a project does not come to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the organization has a project with the slug {0}")]
    SlugTaken(String),
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        Code::AlreadyExists
    }

    fn reason(&self) -> Reason {
        Reason::ProjectSlugTaken
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        let Self::SlugTaken(slug) = self;
        vec![("slug", slug.clone())]
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
            repository_url: draft.repository_url,
            default_branch: draft.default_branch,
            creator_id: grant.account().user_id,
            created_at: now,
        };
        let event = pb::ProjectCreated { after: Some((&it).into()) };
        let about = About::object("project", it.id, &it.name).of(it.org_id).in_project(it.id);
        Changed::new(it, &event, about)
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
