//! API keys: credentials of programs. What one may do is bounded three times: by its scope, by what keys
//! may do at all, and by what its owner may do at that moment.

pub(crate) mod rpc;
pub(crate) mod store;
mod wire;

use api::{error::Reason, identity as pb};
use chassis::{About, Account, Changed, Code, Error, Grant, OrgId, ProjectId, Refusal, UserId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::organization::{self, Organization};

/// A key.
#[derive(Clone, Debug)]
pub(crate) struct ApiKey {
    pub(crate) id: Uuid,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) name: String,
    pub(crate) is_full: bool,
    pub(crate) owner_id: UserId,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) expires_at: Option<OffsetDateTime>,
    pub(crate) last_used_at: Option<OffsetDateTime>,
    pub(crate) revoked_at: Option<OffsetDateTime>,
}

/// What a person gives to make a key.
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) is_full: bool,
    pub(crate) days: Option<i32>,
}

/// Why there is no key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("API keys are part of the plan Starter and higher; upgrade first")]
    Plan,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }

    fn reason(&self) -> Reason {
        Reason::PlanFeatureRequired
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        vec![("feature", "api_keys".to_owned())]
    }
}

impl ApiKey {
    /// A key of whoever makes it (PL-7, PL-8).
    pub(crate) fn create(
        grant: &Grant,
        organization: &Organization,
        draft: Draft,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Error> {
        let owner: &Account = grant.account();
        if !owner.email_verified {
            return Err(organization::Refused::EmailNotVerified.into());
        }
        if organization.limits.of("api_keys") == Some(0) {
            return Err(Refused::Plan.into());
        }
        let it = Self {
            id: chassis::id::new(),
            org_id: grant.org_id(),
            project_id: draft.project_id,
            name: draft.name,
            is_full: draft.is_full,
            owner_id: owner.user_id,
            created_at: now,
            expires_at: draft.days.map(|it| now + Duration::days(it.into())),
            last_used_at: None,
            revoked_at: None,
        };
        let event = pb::ApiKeyCreated { after: Some((&it).into()) };
        let about = it.about();
        Ok(Changed::new(it, &event, about))
    }

    /// The end of a key, for good (PL-14). `None`: it has ended before.
    pub(crate) fn revoke(&self, now: OffsetDateTime) -> Option<Changed<Self>> {
        if self.revoked_at.is_some() {
            return None;
        }
        let after = Self { revoked_at: Some(now), ..self.clone() };
        let event = pb::ApiKeyRevoked { before: Some(self.into()), after: Some((&after).into()) };
        let about = self.about();
        Some(Changed::new(after, &event, about))
    }

    fn about(&self) -> About {
        let about = About::object("api_key", self.id.to_string(), &self.name).of(self.org_id);
        match self.project_id {
            Some(project_id) => about.in_project(project_id),
            None => about,
        }
    }
}
