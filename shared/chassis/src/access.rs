//! Authorization. A grant proves that the caller has a permission; only this module makes grants, after the
//! authority (the identity service) has allowed the call.

mod past_decision;
mod remote;

use std::{
    sync::{Arc, OnceLock, PoisonError, atomic::Ordering},
    time::Instant,
};

use api::{check::Check, error::Reason};
use secrecy::SecretString;
use tonic::Code;

pub(crate) use self::past_decision::{
    DECISION_AGE_MAX, PastDecision, refresh_decisions, require_current_decisions,
};
pub use self::remote::RemoteAuthority;
use crate::{
    Error, OrgId, ProjectId, Result,
    call::{Account, Call, Context},
    denials::Denied,
    rule::Audience,
};

/// Proof that a caller has one permission in one organization. A handler reads and changes this organization
/// only.
#[derive(Clone, Debug)]
pub struct Grant {
    org_id: OrgId,
    account: Account,
    permission: String,
    token: String,
}

/// Proof that a caller has one permission on one project.
#[derive(Clone, Debug)]
pub struct ProjectGrant {
    org: Grant,
    project_id: ProjectId,
}

/// Proof that a caller has one permission in an organization or, if the request names a project, on that
/// project.
#[derive(Clone, Debug)]
pub struct ScopeGrant {
    org: Grant,
    project_id: Option<ProjectId>,
}

impl ScopeGrant {
    /// The project, if the request names one.
    pub fn project_id(&self) -> Option<ProjectId> {
        self.project_id
    }
}

impl std::ops::Deref for ScopeGrant {
    type Target = Grant;
    fn deref(&self) -> &Grant {
        &self.org
    }
}

impl Grant {
    /// The organization.
    pub fn org_id(&self) -> OrgId {
        self.org_id
    }

    /// The account that has the permission.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The permission.
    pub fn permission(&self) -> &str {
        &self.permission
    }

    /// Consistency token of the state that the decision was read from.
    pub fn consistency_token(&self) -> &str {
        &self.token
    }
}

impl ProjectGrant {
    /// The project.
    pub fn project_id(&self) -> ProjectId {
        self.project_id
    }
}

impl std::ops::Deref for ProjectGrant {
    type Target = Grant;
    fn deref(&self) -> &Grant {
        &self.org
    }
}

/// Input of a decision: a permission on an organization or on one of its projects.
#[derive(Clone, Copy, Debug)]
pub struct AccessCheck<'a> {
    /// The permission, for example `project.environments.deploy`.
    pub permission: &'a str,
    /// The organization.
    pub org_id: OrgId,
    /// The project, if the permission is needed on one.
    pub project_id: Option<ProjectId>,
    /// True if the call changes data, which read-only keys and blocked subscriptions forbid.
    pub write: bool,
}

/// Result of an access check.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// True if the caller has the permission.
    pub allowed: bool,
    /// True if the caller may know that the object exists.
    pub visible: bool,
    /// Reason of a denial.
    pub reason: Reason,
    /// Consistency token of the state that the decision was read from.
    pub token: String,
}

impl Decision {
    /// Fails with the error for the caller unless the decision allows the call. An invisible object is
    /// answered like one that does not exist.
    pub fn check(&self, check: &AccessCheck<'_>) -> Result<()> {
        if self.allowed {
            return Ok(());
        }
        if !self.visible {
            let noun = check.project_id.map_or("organization", |_| ProjectId::NOUN);
            return Err(Error::NotFound(noun));
        }
        let (code, message) = match self.reason {
            Reason::ReadOnlyKey => (
                Code::PermissionDenied,
                "this API key is read-only; use a key with full access, or a session",
            ),
            Reason::OrgScopeRequired => (
                Code::PermissionDenied,
                "this API key is valid for one project; use a key of the whole organization",
            ),
            Reason::SessionRequired => (
                Code::PermissionDenied,
                "API keys are not accepted for this; log in and use the session",
            ),
            Reason::SubscriptionBlocked => (
                Code::FailedPrecondition,
                "the organization's subscription is blocked; only reads are allowed until it is renewed",
            ),
            _ => return Err(Error::Denied { permission: check.permission.to_owned() }),
        };
        let metadata = vec![("permission", check.permission.to_owned())];
        Err(Error::Refused { code, reason: self.reason, message: message.to_owned(), metadata })
    }
}

/// Time at which a credential is verified: that it exists and has not been revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// During the authentication.
    Now,
    /// With the decision that follows, in the statement that reads the access version of the organization.
    /// Until then the account may be a copy of at most a second ago.
    WithDecision,
}

/// Authenticates callers and decides on permissions: the identity service, in this process or another.
#[tonic::async_trait]
pub trait Authority: Send + Sync + 'static {
    /// Returns the account of a credential.
    async fn authenticate(
        &self,
        bearer: &SecretString,
        verification: Verification,
    ) -> Result<Account>;

    /// Verifies the credential of the caller and decides whether the caller has a permission, from the newest
    /// state.
    async fn decide(&self, context: &Context, check: &AccessCheck<'_>) -> Result<Decision>;
}

/// Handle for authorization. Its authority is set once, after the services of the process are installed.
#[derive(Clone, Default)]
pub struct Access(Arc<OnceLock<Arc<dyn Authority>>>);

impl Access {
    /// Sets the authority; later calls are ignored.
    pub fn set_authority(&self, authority: Arc<dyn Authority>) {
        let _ = self.0.set(authority);
    }

    /// Returns the authority; fails before [`Self::set_authority`].
    pub fn authority(&self) -> Result<&Arc<dyn Authority>> {
        self.0.get().ok_or_else(|| anyhow::anyhow!("the authority is not set").into())
    }

    /// Checks the permission of the method's rule in an organization, then the fields of the message.
    pub async fn org<M: Check>(&self, call: &Call<M>, org_id: &str) -> Result<Grant> {
        let Ok(org_id) = org_id.parse() else { return Err(malformed_id(call, OrgId::NOUN)) };
        self.require(call, org_id, None).await
    }

    /// Checks the permission of the method's rule on a project, then the fields of the message.
    pub async fn project<M: Check>(
        &self,
        call: &Call<M>,
        org_id: &str,
        project_id: &str,
    ) -> Result<ProjectGrant> {
        let (Ok(org_id), Ok(project_id)) = (org_id.parse(), project_id.parse()) else {
            return Err(malformed_id(call, ProjectId::NOUN));
        };
        let org = self.require(call, org_id, Some(project_id)).await?;
        Ok(ProjectGrant { org, project_id })
    }

    /// Checks the permission of the method's rule in an organization or, if the request names a project, the
    /// rule's project permission on that project; then the fields of the message.
    pub async fn scope<M: Check>(
        &self,
        call: &Call<M>,
        org_id: &str,
        project_id: &str,
    ) -> Result<ScopeGrant> {
        if project_id.is_empty() {
            return Ok(ScopeGrant { org: self.org(call, org_id).await?, project_id: None });
        }
        let (Ok(org_id), Ok(project_id)) = (org_id.parse(), project_id.parse()) else {
            return Err(malformed_id(call, ProjectId::NOUN));
        };
        let Some(permission) = &call.rule.project_permission else {
            return Err(
                anyhow::anyhow!("{} has no permission on projects", call.rule.method).into()
            );
        };
        let check = AccessCheck {
            permission,
            org_id,
            project_id: Some(project_id),
            write: !call.rule.read,
        };
        let org = self.grant(call, &check).await?;
        Ok(ScopeGrant { org, project_id: Some(project_id) })
    }

    /// Authenticates the caller again; fails if the credential is no longer valid.
    pub async fn reauthenticate(&self, context: &Context) -> Result<Account> {
        let bearer = context.bearer.as_ref().ok_or_else(Error::invalid_credential)?;
        self.authority()?.authenticate(bearer, Verification::Now).await
    }

    /// Checks again the credential and the permissions that a stream rests on. An object that is hidden by
    /// now is answered like a missing permission, because the reader already knows that it exists.
    pub async fn revalidate(&self, context: &Context) -> Result<()> {
        let decisions = context.stream_decisions.lock();
        let decisions = decisions.unwrap_or_else(PoisonError::into_inner).clone();
        if context.account.is_some() {
            let bearer = context.bearer.as_ref().ok_or_else(Error::invalid_credential)?;
            let is_verified_later = !decisions.is_empty();
            let verification =
                if is_verified_later { Verification::WithDecision } else { Verification::Now };
            self.authority()?.authenticate(bearer, verification).await?;
        }
        for past in decisions {
            let check = past.access_check(!context.rule.read);
            let decision = self.authority()?.decide(context, &check).await?;
            if !decision.allowed && !decision.visible {
                return Err(Error::Denied { permission: past.permission });
            }
            decision.check(&check)?;
        }
        Ok(())
    }

    /// Waits until the caller of a stream has lost the credential or a permission that the stream rests on;
    /// checks them at the interval of its rule. For work beside the response, whose reader is checked as
    /// well: a client that does not read stalls those checks.
    pub async fn until_revoked(&self, context: &Context) -> Error {
        loop {
            tokio::time::sleep(context.rule.recheck_interval).await;
            if let Err(error) = self.revalidate(context).await {
                return error;
            }
        }
    }

    /// Checks another permission on the same project, which only some requests of a method need.
    pub async fn require_additional(
        &self,
        context: &Context,
        grant: &ProjectGrant,
        permission: &str,
    ) -> Result<()> {
        let check = AccessCheck {
            permission,
            org_id: grant.org_id,
            project_id: Some(grant.project_id),
            write: !context.rule.read,
        };
        self.decide(context, &check).await.map(|_| ())
    }

    async fn require<M: Check>(
        &self,
        call: &Call<M>,
        org_id: OrgId,
        project_id: Option<ProjectId>,
    ) -> Result<Grant> {
        let Audience::Permission(permission) = &call.rule.audience else {
            return Err(anyhow::anyhow!("{} has no permission to require", call.rule.method).into());
        };
        let check = AccessCheck { permission, org_id, project_id, write: !call.rule.read };
        self.grant(call, &check).await
    }

    /// Returns the grant if the caller has the permission and the fields of the message are valid.
    async fn grant<M: Check>(&self, call: &Call<M>, check: &AccessCheck<'_>) -> Result<Grant> {
        let decision = self.decide(call, check).await?;
        call.check()?;
        Ok(Grant {
            org_id: check.org_id,
            account: call.account()?.clone(),
            permission: check.permission.to_owned(),
            token: decision.token,
        })
    }

    /// Decides, and records in the context: a denial for the audit log, the consistency token for the
    /// response, and a permission to be checked again before the commit of a change or while a stream runs.
    async fn decide(&self, context: &Context, check: &AccessCheck<'_>) -> Result<Decision> {
        let authority = self.authority()?.clone();
        let decided_at = Instant::now();
        let decision = authority.decide(context, check).await?;
        context.is_decided.store(true, Ordering::Relaxed);
        if !decision.allowed && decision.visible {
            let denied = Denied {
                permission: check.permission.to_owned(),
                org_id: check.org_id,
                project_id: check.project_id,
                reason: decision.reason,
            };
            *context.denied.lock().unwrap_or_else(PoisonError::into_inner) = Some(denied);
        }
        decision.check(check)?;
        context.record_read(&decision.token);
        let past = PastDecision {
            authority,
            decided_at,
            permission: check.permission.to_owned(),
            org_id: check.org_id,
            project_id: check.project_id,
        };
        if let Some(open_call) = &context.open_call {
            // Fails if the organization has reached its limit of streams and long polls.
            open_call.count_in(check.org_id)?;
            let decisions = context.stream_decisions.lock();
            decisions.unwrap_or_else(PoisonError::into_inner).push(past.clone());
        }
        if check.write {
            context.change_decisions.lock().unwrap_or_else(PoisonError::into_inner).push(past);
        }
        Ok(decision)
    }
}

/// Error of a call whose organization or project id is not a UUID: all violations of the message. No object
/// is named, so the violations disclose nothing to a caller without permissions.
fn malformed_id<M: Check>(call: &Call<M>, noun: &'static str) -> Error {
    call.check().err().unwrap_or(Error::NotFound(noun))
}
