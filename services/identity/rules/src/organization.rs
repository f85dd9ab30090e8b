//! Organizations: the tenants, with their plans and limits.

mod lifecycle;
mod wire;

pub use lifecycle::Patch;

use std::collections::BTreeMap;

use api::{error::Reason, identity as pb};
use chassis::{Account, Changed, Code, Error, EventTarget, OrgId, Refusal, UserId};
use time::{Duration, OffsetDateTime};

use crate::{
    member::{Admission, Member, MemberAssociations},
    types::{ConsistencyToken, StoredText},
};

/// The plan of an organization. Code reads the limits of a plan from the database and never compares plans
/// (PL-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    Free,
    Starter,
    Pro,
    Agency,
}

/// The state of the subscription, as the billing system reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscription {
    Active,
    Trialing,
    PastDue,
    Paused,
    Canceled,
    /// Every change is refused (PL-4).
    Blocked,
}

impl StoredText for Plan {
    const TEXTS: &'static [(Self, &'static str)] = &[
        (Self::Free, "free"),
        (Self::Starter, "starter"),
        (Self::Pro, "pro"),
        (Self::Agency, "agency"),
    ];
}

impl StoredText for Subscription {
    const TEXTS: &'static [(Self, &'static str)] = &[
        (Self::Active, "active"),
        (Self::Trialing, "trialing"),
        (Self::PastDue, "past_due"),
        (Self::Paused, "paused"),
        (Self::Canceled, "canceled"),
        (Self::Blocked, "blocked"),
    ];
}

/// The limits of a plan, by key. No entry, or null, means unlimited (PL-1).
#[derive(Clone, Debug, Default)]
pub struct Limits(pub BTreeMap<String, Option<i64>>);

impl Limits {
    /// Returns the maximum of a key, for example `members`; `None` if it is unlimited.
    pub fn max(&self, key: &str) -> Option<i64> {
        self.0.get(key).copied().flatten()
    }
}

/// Services that keep data of an organization, and delete it after the organization is deleted.
pub const CLEANUP_PARTICIPANTS: [&str; 2] = ["invitation", "project"];

/// Period in which a deleted organization can be restored (ID-35).
pub const RESTORE_PERIOD: Duration = Duration::days(30);

/// A tenant.
#[derive(Clone, Debug)]
pub struct Organization {
    pub id: OrgId,
    pub name: String,
    pub slug: String,
    pub plan: Plan,
    pub owner_id: UserId,
    pub subscription: Subscription,
    /// Incremented with every change of access.
    pub access_version: i64,
    /// Incremented with every change of the organization's own fields.
    pub revision: i64,
    pub created_at: OffsetDateTime,
    pub deleted_at: Option<OffsetDateTime>,
    /// Number of members.
    pub members: i64,
    /// Number of projects.
    pub projects: i64,
    pub limits: Limits,
    /// Largest number of members that the paid seats allow; `None` if they limit nothing (PL-49).
    pub seat_limit: Option<i64>,
    /// Services that have not yet cleaned up their data of a deleted organization.
    pub pending_cleanup: Vec<String>,
}

/// The fields of a new organization.
pub struct Draft {
    pub name: String,
    pub slug: String,
    /// True if the slug is derived from the name. It gets a suffix if another organization has it.
    pub is_slug_derived: bool,
}

/// Reasons for which an organization is not created, changed or extended.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the e-mail address of the account is not confirmed; confirm it, then retry")]
    EmailNotVerified,
    #[error("the slug {0} is taken; choose another slug")]
    SlugTaken(String),
    #[error("the account has already created {0} organizations, the maximum")]
    OrgLimit(i64),
    #[error("the organization has changed since it was read; read it again, then retry")]
    Stale,
    #[error(
        "the organization has the {0} members that its plan or its paid seats allow; ask an administrator \
         to remove one, or the owner to upgrade the plan or to pay for more seats"
    )]
    MemberLimit(i64),
    #[error(
        "the organization has the {0} projects that its plan allows; delete one or upgrade the plan"
    )]
    ProjectLimit(i64),
    #[error(
        "the organization's subscription is blocked; only reads are allowed until it is renewed"
    )]
    Blocked,
    #[error("the confirmation must be the name of the organization")]
    Confirmation,
    #[error(
        "the new owner must be another member of the organization, with a confirmed e-mail address"
    )]
    TransferTarget,
    #[error("{0} environments are running or deploying; stop them first, or delete with cascade")]
    NotEmpty(i32),
    #[error("the organization is not deleted, or its restore period has ended")]
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
    /// Creates an organization, whose creator becomes its Owner (ID-2). `created` counts the organizations
    /// that the account has created before (ID-32).
    pub fn create(
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
        let organization = Self {
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
            limits: Limits::default(),
            seat_limit: None,
            pending_cleanup: vec![],
        };
        let owner = Member::owner(organization.id, creator, now);
        let event = pb::OrganizationCreated {
            after: Some((&organization).into()),
            owner: Some((&owner).into()),
        };
        let target = organization.event_target();
        Ok(Changed::new((organization, owner), &event, target))
    }

    /// Changes the plan at once. A smaller plan removes no members (ID-13).
    pub fn change_plan(mut self, plan: Plan, etag: &str) -> Result<Changed<Self>, Refused> {
        self.require_etag(etag)?;
        let before = Some((&self).into());
        self.plan = plan;
        self.revision += 1;
        let event = pb::SubscriptionPlanChanged { before, after: Some((&self).into()) };
        let target = self.event_target();
        Ok(Changed::new(self, &event, target))
    }

    /// Makes an invited account a member, if its address is confirmed, the inviter may still invite, and the
    /// plan allows one more member (ID-12). `associations` has the teams and grants that still exist (IN-15).
    pub fn admit(
        &self,
        invitee: &Account,
        admission: &Admission,
        inviter: Option<&Member>,
        associations: &MemberAssociations,
        now: OffsetDateTime,
    ) -> Result<Changed<Member>, Error> {
        if !invitee.email_verified {
            return Err(Refused::EmailNotVerified.into());
        }
        let joined = Member::join(self.id, invitee, admission, inviter, associations, now)?;
        self.require_member_capacity()?;
        Ok(joined)
    }

    /// Refuses writes to a deleted organization, and to one with a blocked subscription (PL-4).
    pub fn require_writable(&self) -> Result<(), Error> {
        if self.deleted_at.is_some() {
            return Err(Error::NotFound(OrgId::NOUN));
        }
        if self.subscription == Subscription::Blocked {
            return Err(Refused::Blocked.into());
        }
        Ok(())
    }

    /// Refuses one more member than the plan or the paid seats allow (ID-11, ID-12, PL-49). The result holds
    /// only while the transaction has the organization's row lock.
    pub fn require_member_capacity(&self) -> Result<(), Refused> {
        match [self.limits.max("members"), self.seat_limit].into_iter().flatten().min() {
            Some(limit) if self.members >= limit => Err(Refused::MemberLimit(limit)),
            _ => Ok(()),
        }
    }

    /// Refuses one more project than the plan allows (PE-2). The result holds only while the transaction has
    /// the organization's row lock.
    pub fn require_project_capacity(&self) -> Result<(), Refused> {
        match self.limits.max("projects") {
            Some(limit) if self.projects >= limit => Err(Refused::ProjectLimit(limit)),
            _ => Ok(()),
        }
    }

    /// Returns the etag, which differs after every change of the organization's own fields.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.revision)
    }

    /// Returns the consistency token of the current access version.
    pub fn token(&self) -> ConsistencyToken {
        ConsistencyToken { org_id: self.id, access_version: self.access_version }
    }

    /// Refuses a change of another version than the one that the caller has read.
    pub fn require_etag(&self, etag: &str) -> Result<(), Refused> {
        if etag.is_empty() || etag == self.etag() { Ok(()) } else { Err(Refused::Stale) }
    }

    pub(crate) fn event_target(&self) -> EventTarget {
        EventTarget::object("organization", self.id, &self.name).in_org(self.id)
    }
}
