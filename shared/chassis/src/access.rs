//! What a caller may do. A grant is the only proof, and only this module makes one.

use std::{
    sync::{Arc, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use api::{
    check::Check,
    error::Reason,
    identity::{self as pb, access_service_client::AccessServiceClient},
};
use secrecy::{ExposeSecret, SecretString};
use tonic::Code;

use crate::{
    Error, OrgId, ProjectId, Result,
    call::{Account, Call, Context, KeyPower},
    clock::moment,
    denials::Denied,
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
    permission: String,
    token: String,
}

/// Proof that a caller was allowed to do one thing in one project.
#[derive(Clone, Debug)]
pub struct ProjectGrant {
    org: Grant,
    project_id: ProjectId,
}

/// Proof that a caller was allowed to do one thing in one organization, or on one of its projects.
#[derive(Clone, Debug)]
pub struct ScopeGrant {
    org: Grant,
    project_id: Option<ProjectId>,
}

impl ScopeGrant {
    /// The project, if it is about one.
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

    /// Whose permission it was.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// What was allowed.
    pub fn permission(&self) -> &str {
        &self.permission
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

/// "May the caller do this?"
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What.
    pub permission: &'a str,
    /// Where.
    pub org_id: OrgId,
    /// On which project, if on one.
    pub project_id: Option<ProjectId>,
    /// Whether it changes something.
    pub write: bool,
}

/// The answer.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// Whether they may.
    pub allowed: bool,
    /// Whether they may know that the object exists.
    pub visible: bool,
    /// Why not, if they may not.
    pub reason: Reason,
    /// The state that the answer was read from.
    pub token: String,
}

impl Decision {
    /// The refusal that the caller gets, unless they may.
    pub fn check(&self, question: &Question<'_>) -> Result<()> {
        if self.allowed {
            return Ok(());
        }
        if !self.visible {
            let noun = question.project_id.map_or("organization", |_| ProjectId::NOUN);
            return Err(Error::NotFound(noun));
        }
        let (code, message) = match self.reason {
            Reason::ReadOnlyKey => (Code::PermissionDenied, "this API key is read-only"),
            Reason::OrgScopeRequired => (
                Code::PermissionDenied,
                "this takes an API key of the whole organization, not one of a project",
            ),
            Reason::SessionRequired => {
                (Code::PermissionDenied, "no API key may do this; sign in and use the session")
            }
            Reason::SubscriptionBlocked => (
                Code::FailedPrecondition,
                "the organization's subscription is blocked: reads go on, changes do not",
            ),
            _ => return Err(Error::Denied { permission: question.permission.to_owned() }),
        };
        let metadata = vec![("permission", question.permission.to_owned())];
        Err(Error::Refused { code, reason: self.reason, message: message.to_owned(), metadata })
    }
}

/// Whoever decides: the identity service, here or elsewhere.
#[tonic::async_trait]
pub trait Authority: Send + Sync + 'static {
    /// The account behind a credential. `fresh` forbids any memory of an earlier answer.
    async fn authenticate(&self, bearer: &SecretString, fresh: bool) -> Result<Account>;

    /// Whether the caller has a permission; always from the newest state.
    async fn decide(&self, context: &Context, question: &Question<'_>) -> Result<Decision>;
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

    /// Proves that the caller has the permission of the method's rule in an organization or, if the request
    /// names a project, the one that suffices there; then checks the fields of the message.
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
            return Err(all_violations(call, ProjectId::NOUN));
        };
        let Some(permission) = &call.rule.project_permission else {
            return Err(
                anyhow::anyhow!("{} has no permission on projects", call.rule.method).into()
            );
        };
        let question =
            Question { permission, org_id, project_id: Some(project_id), write: !call.rule.read };
        let org = self.granted(call, &question).await?;
        Ok(ScopeGrant { org, project_id: Some(project_id) })
    }

    /// The account of a call that goes on, from the newest state; fails once its credential has ended.
    pub async fn still(&self, context: &Context) -> Result<Account> {
        let bearer = context.bearer.as_ref().ok_or_else(Error::bad_credential)?;
        self.authority()?.authenticate(bearer, true).await
    }

    /// Refuses unless the caller has another permission on the same project, too, which only some requests
    /// of a method need.
    pub async fn also(
        &self,
        context: &Context,
        grant: &ProjectGrant,
        permission: &str,
    ) -> Result<()> {
        let (org_id, project_id) = (grant.org_id, Some(grant.project_id));
        let question = Question { permission, org_id, project_id, write: !context.rule.read };
        self.decide(context, &question).await.map(|_| ())
    }

    /// Refuses once a caller may no longer do what they were allowed to, as a stream must ask.
    pub async fn again(&self, context: &Context, grant: &ScopeGrant) -> Result<()> {
        self.still(context).await?;
        let (permission, project_id) = (grant.permission(), grant.project_id);
        let question =
            Question { permission, org_id: grant.org_id, project_id, write: !context.rule.read };
        self.decide(context, &question).await.map(|_| ())
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
        let question = Question { permission, org_id, project_id, write: !call.rule.read };
        self.granted(call, &question).await
    }

    /// The grant, if the decision gives one and the message is as it should be.
    async fn granted<M: Check>(&self, call: &Call<M>, question: &Question<'_>) -> Result<Grant> {
        let decision = self.decide(call, question).await?;
        call.check()?;
        let (account, permission) = (call.account()?.clone(), question.permission.to_owned());
        Ok(Grant { org_id: question.org_id, account, permission, token: decision.token })
    }

    async fn decide(&self, context: &Context, question: &Question<'_>) -> Result<Decision> {
        let (authority, asked) = (self.authority()?.clone(), Instant::now());
        let decision = authority.decide(context, question).await?;
        if !decision.allowed && decision.visible {
            let (org_id, project_id) = (question.org_id, question.project_id);
            let permission = question.permission.to_owned();
            let denied = Denied { permission, org_id, project_id, reason: decision.reason };
            *context.denied.lock().unwrap_or_else(PoisonError::into_inner) = Some(denied);
        }
        decision.check(question)?;
        context.saw(&decision.token);
        if question.write {
            let mut decided = context.decided.lock().unwrap_or_else(PoisonError::into_inner);
            let permission = question.permission.to_owned();
            let (org_id, project_id) = (question.org_id, question.project_id);
            decided.push(Decided { authority, asked, permission, org_id, project_id });
        }
        Ok(decision)
    }
}

/// A decision that a change rests on.
pub(crate) struct Decided {
    authority: Arc<dyn Authority>,
    asked: Instant,
    permission: String,
    org_id: OrgId,
    project_id: Option<ProjectId>,
}

impl std::fmt::Debug for Decided {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decided").field("permission", &self.permission).finish_non_exhaustive()
    }
}

/// How old a decision may be when what rests on it commits.
const DECISION_MAX: Duration = Duration::from_secs(1);

/// Asks again, just before a change commits, what was decided too long ago: whoever lost the right while the
/// call waited, or while this process stood still, changes nothing (P-03).
pub(crate) async fn confirm(context: &Context) -> Result<()> {
    let mut decided = {
        let mut decided = context.decided.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *decided)
    };
    for it in &mut decided {
        let mut tries = 0;
        while it.asked.elapsed() > DECISION_MAX {
            tries += 1;
            if tries > 3 {
                return Err(Error::Unavailable("identity"));
            }
            let (permission, org_id) = (it.permission.as_str(), it.org_id);
            let question = Question { permission, org_id, project_id: it.project_id, write: true };
            it.asked = Instant::now();
            it.authority.decide(context, &question).await?.check(&question)?;
        }
    }
    Ok(())
}

/// An id that is no UUID names nothing, so nothing can be told by answering about the other fields, too.
fn all_violations<M: Check>(call: &Call<M>, noun: &'static str) -> Error {
    call.check().err().unwrap_or(Error::NotFound(noun))
}

/// The identity service in another process.
pub(crate) struct RemoteAuthority(pub(crate) Link);

#[tonic::async_trait]
impl Authority for RemoteAuthority {
    async fn authenticate(&self, bearer: &SecretString, fresh: bool) -> Result<Account> {
        let mut request = tonic::Request::new(pb::AuthenticateRequest { fresh });
        let value = format!("Bearer {}", bearer.expose_secret());
        let value = value.parse().map_err(|_| Error::bad_credential())?;
        request.metadata_mut().insert("authorization", value);
        request.set_timeout(Duration::from_secs(5));
        let mut client = AccessServiceClient::new(self.0.clone());
        let it = client.authenticate(request).await.map_err(remote("identity"))?.into_inner();
        let power = |it: pb::KeyPower| {
            let project_id = Some(it.project_id).filter(|it| !it.is_empty());
            Ok::<_, Error>(KeyPower {
                org_id: it.org_id.parse()?,
                project_id: project_id.map(|it| it.parse()).transpose()?,
                full: it.full,
                name: it.name,
            })
        };
        Ok(Account {
            user_id: it.user_id.parse()?,
            email: it.email,
            display_name: it.display_name,
            email_verified: it.email_verified,
            credential_id: it.credential_id.parse().map_err(anyhow::Error::from)?,
            key: it.key.map(power).transpose()?,
            authenticated_at: it.authenticate_time.and_then(moment),
        })
    }

    async fn decide(&self, context: &Context, question: &Question<'_>) -> Result<Decision> {
        let question = pb::CheckRequest {
            org_id: question.org_id.to_string(),
            project_id: question.project_id.map(String::from).unwrap_or_default(),
            permission: question.permission.to_owned(),
            write: question.write,
            consistency: None,
        };
        let mut client = AccessServiceClient::new(self.0.clone());
        let answer = client.check(context.forward(question)).await.map_err(remote("identity"))?;
        let it = answer.into_inner();
        let reason = it.reason();
        let (allowed, visible, token) = (it.allowed, it.visible, it.consistency_token);
        Ok(Decision { allowed, visible, reason, token })
    }
}
