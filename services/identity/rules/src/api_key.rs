//! API keys: credentials of programs. A key's permissions are limited by its scope, by the policy for keys,
//! and by the current permissions of its owner.

mod wire;

use api::{error::Reason, identity as pb};
use chassis::{
    Account, Changed, Code, Error, EventTarget, Grant, OrgId, ProjectId, Refusal, UserId,
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::organization::{self, Organization};

/// An API key, without its secret.
#[derive(Clone, Debug)]
pub struct ApiKey {
    pub id: Uuid,
    pub org_id: OrgId,
    /// The only project on which the key works; `None` for every project.
    pub project_id: Option<ProjectId>,
    pub name: String,
    /// True if the key may write; otherwise it is read-only.
    pub is_full: bool,
    pub owner_id: UserId,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    pub last_used_at: Option<OffsetDateTime>,
    pub revoked_at: Option<OffsetDateTime>,
}

/// The fields of a new key.
pub struct Draft {
    pub name: String,
    pub project_id: Option<ProjectId>,
    pub is_full: bool,
    /// Days until the key expires; `None` if it does not.
    pub lifetime_days: Option<i32>,
}

/// Reasons for which a key is not created.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the plan does not include API keys; upgrade to Starter or higher")]
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
    /// Creates a key that its creator owns (PL-7, PL-8).
    pub fn create(
        authorization: &Grant,
        organization: &Organization,
        draft: Draft,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Error> {
        let owner: &Account = authorization.account();
        if !owner.email_verified {
            return Err(organization::Refused::EmailNotVerified.into());
        }
        if organization.limits.max("api_keys") == Some(0) {
            return Err(Refused::Plan.into());
        }
        let key = Self {
            id: chassis::id::new(),
            org_id: authorization.org_id(),
            project_id: draft.project_id,
            name: draft.name,
            is_full: draft.is_full,
            owner_id: owner.user_id,
            created_at: now,
            expires_at: draft.lifetime_days.map(|it| now + Duration::days(it.into())),
            last_used_at: None,
            revoked_at: None,
        };
        let event = pb::ApiKeyCreated { after: Some((&key).into()) };
        let target = key.event_target();
        Ok(Changed::new(key, &event, target))
    }

    /// Revokes the key for good (PL-14). `None` if it is revoked already.
    pub fn revoke(&self, now: OffsetDateTime) -> Option<Changed<Self>> {
        if self.revoked_at.is_some() {
            return None;
        }
        let after = Self { revoked_at: Some(now), ..self.clone() };
        let event = pb::ApiKeyRevoked { before: Some(self.into()), after: Some((&after).into()) };
        let target = self.event_target();
        Some(Changed::new(after, &event, target))
    }

    fn event_target(&self) -> EventTarget {
        let target =
            EventTarget::object("api_key", self.id.to_string(), &self.name).in_org(self.org_id);
        match self.project_id {
            Some(project_id) => target.in_project(project_id),
            None => target,
        }
    }
}
