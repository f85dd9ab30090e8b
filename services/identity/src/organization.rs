//! Organizations: the tenants, and what their plans allow.

pub(crate) mod rpc;
pub(crate) mod store;
pub(crate) mod wire;

use api::{error::Reason, identity as pb};
use chassis::{About, Account, Changed, Code, OrgId, Refusal, UserId};
use time::OffsetDateTime;

use crate::member::Member;

/// What an organization pays for. Code never compares plans; their limits are data (PL-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum Plan {
    Free,
    Starter,
    Pro,
    Agency,
}

/// A tenant.
#[derive(Clone, Debug)]
pub(crate) struct Organization {
    pub(crate) id: OrgId,
    pub(crate) name: String,
    pub(crate) slug: String,
    pub(crate) plan: Plan,
    pub(crate) owner_id: UserId,
    pub(crate) access_version: i64,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) members: i64,
    pub(crate) member_limit: Option<i64>,
    pub(crate) projects: i64,
    pub(crate) project_limit: Option<i64>,
}

/// What a person gives to create an organization.
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) slug: String,
}

/// Why an organization does not come to be, change, or grow.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("confirm your e-mail address first")]
    EmailNotVerified,
    #[error("another organization has the slug {0}")]
    SlugTaken(String),
    #[error("this account may create {0} organizations, and did")]
    OrgLimit(i64),
    #[error("the organization changed since you read it; read it again")]
    Stale,
    #[error("the plan allows {0} members; remove someone or upgrade")]
    MemberLimit(i64),
    #[error("the plan allows {0} projects; delete one or upgrade")]
    ProjectLimit(i64),
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::EmailNotVerified => Code::FailedPrecondition,
            Self::SlugTaken(_) => Code::AlreadyExists,
            Self::Stale => Code::Aborted,
            Self::OrgLimit(_) | Self::MemberLimit(_) | Self::ProjectLimit(_) => {
                Code::ResourceExhausted
            }
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::EmailNotVerified => Reason::EmailNotVerified,
            Self::SlugTaken(_) => Reason::SlugTaken,
            Self::Stale => Reason::Conflict,
            Self::OrgLimit(_) => Reason::OrgLimitReached,
            Self::MemberLimit(_) => Reason::MemberLimitReached,
            Self::ProjectLimit(_) => Reason::ProjectLimitReached,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::SlugTaken(slug) => vec![("slug", slug.clone())],
            Self::OrgLimit(limit) | Self::MemberLimit(limit) | Self::ProjectLimit(limit) => {
                vec![("limit", limit.to_string())]
            }
            Self::EmailNotVerified | Self::Stale => vec![],
        }
    }
}

impl Organization {
    /// Whoever creates an organization owns it (ID-2), and must be who they say (1.8). `created` counts
    /// the organizations that the account created before (ID-32).
    pub(crate) fn create(
        creator: &Account,
        draft: Draft,
        created: i64,
        created_max: i64,
        now: OffsetDateTime,
    ) -> Result<Changed<(Self, Member)>, Refused> {
        if !creator.email_verified {
            return Err(Refused::EmailNotVerified);
        }
        if created >= created_max {
            return Err(Refused::OrgLimit(created_max));
        }
        let it = Self {
            id: OrgId::new(),
            name: draft.name,
            slug: draft.slug,
            plan: Plan::Free,
            owner_id: creator.user_id,
            access_version: 1,
            created_at: now,
            members: 1,
            member_limit: None,
            projects: 0,
            project_limit: None,
        };
        let owner = Member::owner(it.id, creator, now);
        let event =
            pb::OrganizationCreated { after: Some((&it).into()), owner: Some((&owner).into()) };
        let about = it.about();
        Ok(Changed::new((it, owner), &event, about))
    }

    /// Acts at once. A smaller plan removes nobody (ID-13).
    pub(crate) fn change_plan(mut self, plan: Plan, etag: &str) -> Result<Changed<Self>, Refused> {
        if !etag.is_empty() && etag != self.etag() {
            return Err(Refused::Stale);
        }
        let before = Some((&self).into());
        self.plan = plan;
        self.access_version += 1;
        let event = pb::PlanChanged { before, after: Some((&self).into()) };
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    /// Whether one more member fits (ID-11, ID-12). Only under the organization's row lock does the
    /// answer hold until the member is in.
    pub(crate) fn seat(&self) -> Result<(), Refused> {
        match self.member_limit {
            Some(limit) if self.members >= limit => Err(Refused::MemberLimit(limit)),
            _ => Ok(()),
        }
    }

    /// Whether one more project fits (PE-2), under the same lock.
    pub(crate) fn place_for_project(&self) -> Result<(), Refused> {
        match self.project_limit {
            Some(limit) if self.projects >= limit => Err(Refused::ProjectLimit(limit)),
            _ => Ok(()),
        }
    }

    /// Changes with every change.
    pub(crate) fn etag(&self) -> String {
        format!("\"{}\"", self.access_version)
    }

    fn about(&self) -> About {
        About::object("organization", self.id, &self.name).of(self.id)
    }
}
