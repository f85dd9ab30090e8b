//! What a caller may do. A grant is the only proof, and only this module makes one.

use std::sync::{Arc, OnceLock};

use api::{
    check::Check,
    identity::{self as pb, access_service_client::AccessServiceClient},
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    Error, OrgId, ProjectId, Result,
    call::{Account, Call, Context},
    error::remote,
    link::Link,
    rule::Audience,
};

/// Proof that a caller was allowed to do one thing in one organization. Its organization is the only
/// one that its holder may touch.
#[derive(Clone, Debug)]
pub struct Grant {
    org_id: OrgId,
    account: Account,
    token: String,
}

/// Proof that a caller was allowed to do one thing in one project.
#[derive(Clone, Debug)]
pub struct ProjectGrant {
    org: Grant,
    project_id: ProjectId,
}

impl Grant {
    /// The organization.
    pub fn org_id(&self) -> OrgId {
        self.org_id
    }

    /// Whose permission it was.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The state that the decision was read from.
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

/// An answer to "may the caller do this?".
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// Whether they may.
    pub allowed: bool,
    /// Whether they may know that the object exists.
    pub visible: bool,
    /// The state that the answer was read from.
    pub token: String,
}

/// Whoever decides: the identity service, here or elsewhere.
#[tonic::async_trait]
pub trait Authority: Send + Sync + 'static {
    /// The account behind a credential. `fresh` forbids any memory of an earlier answer.
    async fn authenticate(&self, bearer: &SecretString, fresh: bool) -> Result<Account>;

    /// Whether the caller has a permission; always from the newest state.
    async fn decide(
        &self,
        context: &Context,
        permission: &str,
        org_id: OrgId,
        project_id: Option<ProjectId>,
    ) -> Result<Decision>;
}

/// Asks whether callers may do things.
#[derive(Clone, Default)]
pub struct Access(Arc<OnceLock<Arc<dyn Authority>>>);

impl Access {
    /// Decides who decides. The first one wins.
    pub(crate) fn appoint(&self, authority: Arc<dyn Authority>) {
        let _ = self.0.set(authority);
    }

    pub(crate) fn authority(&self) -> Result<&Arc<dyn Authority>> {
        self.0.get().ok_or_else(|| anyhow::anyhow!("nobody decides yet").into())
    }

    /// Proves that the caller has the permission of the method's rule in an organization, then checks
    /// the fields of the message.
    pub async fn org<M: Check>(&self, call: &Call<M>, org_id: &str) -> Result<Grant> {
        let Ok(org_id) = org_id.parse() else { return Err(all_violations(call, OrgId::NOUN)) };
        self.require(call, org_id, None).await
    }

    /// Proves that the caller has the permission of the method's rule on a project, then checks the
    /// fields of the message.
    pub async fn project<M: Check>(
        &self,
        call: &Call<M>,
        org_id: &str,
        project_id: &str,
    ) -> Result<ProjectGrant> {
        let (Ok(org_id), Ok(project_id)) = (org_id.parse(), project_id.parse()) else {
            return Err(all_violations(call, ProjectId::NOUN));
        };
        let org = self.require(call, org_id, Some(project_id)).await?;
        Ok(ProjectGrant { org, project_id })
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
        let account = call.account()?.clone();
        let decision = self.authority()?.decide(call, permission, org_id, project_id).await?;
        if !decision.visible {
            return Err(Error::NotFound(project_id.map_or("organization", |_| ProjectId::NOUN)));
        }
        if !decision.allowed {
            return Err(Error::Denied { permission: permission.clone() });
        }
        call.check()?;
        Ok(Grant { org_id, account, token: decision.token })
    }
}

/// An id that is no UUID names nothing, so nothing can be told by answering about the other fields, too.
fn all_violations<M: Check>(call: &Call<M>, noun: &'static str) -> Error {
    call.check().err().unwrap_or(Error::NotFound(noun))
}

/// The identity service in another process.
pub(crate) struct RemoteAuthority(pub(crate) Link);

#[tonic::async_trait]
impl Authority for RemoteAuthority {
    async fn authenticate(&self, bearer: &SecretString, _fresh: bool) -> Result<Account> {
        let mut request = tonic::Request::new(pb::AuthenticateRequest {});
        let value = format!("Bearer {}", bearer.expose_secret());
        let value = value.parse().map_err(|_| Error::bad_credential())?;
        request.metadata_mut().insert("authorization", value);
        request.set_timeout(std::time::Duration::from_secs(5));
        let mut client = AccessServiceClient::new(self.0.clone());
        let it = client.authenticate(request).await.map_err(remote("identity"))?.into_inner();
        Ok(Account {
            user_id: it.user_id.parse()?,
            email: it.email,
            display_name: it.display_name,
            email_verified: it.email_verified,
            credential_id: it.credential_id.parse().map_err(anyhow::Error::from)?,
        })
    }

    async fn decide(
        &self,
        context: &Context,
        permission: &str,
        org_id: OrgId,
        project_id: Option<ProjectId>,
    ) -> Result<Decision> {
        let question = pb::CheckRequest {
            org_id: org_id.to_string(),
            project_id: project_id.map(String::from).unwrap_or_default(),
            permission: permission.to_owned(),
        };
        let mut client = AccessServiceClient::new(self.0.clone());
        let answer = client.check(context.forward(question)).await.map_err(remote("identity"))?;
        let it = answer.into_inner();
        Ok(Decision { allowed: it.allowed, visible: it.visible, token: it.consistency_token })
    }
}
