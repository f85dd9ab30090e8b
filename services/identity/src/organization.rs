//! Organizations: the tenants, and what their plans allow.

pub(crate) mod deletion;
mod life;
pub(crate) mod purge;
pub(crate) mod rpc;
pub(crate) mod store;
pub(crate) mod wire;

pub(crate) use life::Patch;

use std::collections::BTreeMap;

use api::{error::Reason, identity as pb};
use chassis::{About, Account, Changed, Code, Error, OrgId, Refusal, UserId};
use sqlx::types::Json;
use time::{Duration, OffsetDateTime};

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

/// What became of the payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(crate) enum Subscription {
    Active,
    Trialing,
    PastDue,
    Paused,
    Canceled,
    /// Every change is refused (PL-4).
    Blocked,
}

/// The limits of a plan, by key. No entry, or null, means unlimited (PL-1).
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct Limits(pub(crate) BTreeMap<String, Option<i64>>);

impl Limits {
    /// How many of something the plan allows; `None` if it does not limit them.
    pub(crate) fn of(&self, key: &str) -> Option<i64> {
        self.0.get(key).copied().flatten()
    }
}

/// Services that have something of an organization, and take it along when it is deleted.
pub(crate) const PARTIES: [&str; 2] = ["invitation", "project"];

/// How long a deleted organization can be restored (ID-35).
pub(crate) const RESTORABLE: Duration = Duration::days(30);

/// A tenant.
#[derive(Clone, Debug)]
pub(crate) struct Organization {
    pub(crate) id: OrgId,
    pub(crate) name: String,
    pub(crate) slug: String,
    pub(crate) plan: Plan,
    pub(crate) owner_id: UserId,
    pub(crate) subscription: Subscription,
    pub(crate) access_version: i64,
    pub(crate) revision: i64,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) deleted_at: Option<OffsetDateTime>,
    pub(crate) members: i64,
    pub(crate) projects: i64,
    pub(crate) limits: Json<Limits>,
    /// Services that have not yet taken along what they have of a deleted organization.
    pub(crate) closing: Vec<String>,
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
    #[error(
        "the organization is full, with {0} members; ask an administrator to make room, or to upgrade"
    )]
    MemberLimit(i64),
    #[error("the plan allows {0} projects; delete one or upgrade")]
    ProjectLimit(i64),
    #[error("the organization's subscription is blocked: reads go on, changes do not")]
    Blocked,
    #[error("the name that was typed is not the organization's")]
    Confirmation,
    #[error("the new owner must be another member of the organization, with a confirmed address")]
    TransferTarget,
    #[error("{0} environments run or deploy; stop them first, or delete with cascade")]
    NotEmpty(i32),
    #[error("the organization is not deleted, or its time for a restore is over")]
    NotRestorable,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::EmailNotVerified
            | Self::Blocked
            | Self::Confirmation
            | Self::TransferTarget
            | Self::NotEmpty(_)
            | Self::NotRestorable => Code::FailedPrecondition,
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
            Self::Blocked => Reason::SubscriptionBlocked,
            Self::Confirmation => Reason::ConfirmationMismatch,
            Self::TransferTarget => Reason::TransferTarget,
            Self::NotEmpty(_) => Reason::OrgNotEmpty,
            Self::NotRestorable => Reason::NotRestorable,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::SlugTaken(slug) => vec![("slug", slug.clone())],
            Self::OrgLimit(limit) | Self::MemberLimit(limit) | Self::ProjectLimit(limit) => {
                vec![("limit", limit.to_string())]
            }
            Self::NotEmpty(count) => vec![("count", count.to_string())],
            _ => vec![],
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
            subscription: Subscription::Active,
            access_version: 1,
            revision: 1,
            created_at: now,
            deleted_at: None,
            members: 1,
            projects: 0,
            limits: Json::default(),
            closing: vec![],
        };
        let owner = Member::owner(it.id, creator, now);
        let event =
            pb::OrganizationCreated { after: Some((&it).into()), owner: Some((&owner).into()) };
        let about = it.about();
        Ok(Changed::new((it, owner), &event, about))
    }

    /// Acts at once. A smaller plan removes nobody (ID-13).
    pub(crate) fn change_plan(mut self, plan: Plan, etag: &str) -> Result<Changed<Self>, Refused> {
        self.current(etag)?;
        let before = Some((&self).into());
        self.plan = plan;
        self.revision += 1;
        let event = pb::PlanChanged { before, after: Some((&self).into()) };
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    /// Changes are refused in an organization that is deleted, or whose subscription is blocked (PL-4).
    pub(crate) fn living(&self) -> Result<(), Error> {
        if self.deleted_at.is_some() {
            return Err(Error::NotFound(OrgId::NOUN));
        }
        if self.subscription == Subscription::Blocked {
            return Err(Refused::Blocked.into());
        }
        Ok(())
    }

    /// Whether one more member fits (ID-11, ID-12). Only under the organization's row lock does the
    /// answer hold until the member is in.
    pub(crate) fn seat(&self) -> Result<(), Refused> {
        match self.limits.of("members") {
            Some(limit) if self.members >= limit => Err(Refused::MemberLimit(limit)),
            _ => Ok(()),
        }
    }

    /// Whether one more project fits (PE-2), under the same lock.
    pub(crate) fn place_for_project(&self) -> Result<(), Refused> {
        match self.limits.of("projects") {
            Some(limit) if self.projects >= limit => Err(Refused::ProjectLimit(limit)),
            _ => Ok(()),
        }
    }

    /// Changes with every change of the organization itself.
    pub(crate) fn etag(&self) -> String {
        format!("\"{}\"", self.revision)
    }

    fn current(&self, etag: &str) -> Result<(), Refused> {
        if etag.is_empty() || etag == self.etag() { Ok(()) } else { Err(Refused::Stale) }
    }

    fn about(&self) -> About {
        About::object("organization", self.id, &self.name).of(self.id)
    }
}
