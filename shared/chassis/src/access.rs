//! What a caller may do. A grant is the only proof, and only this module makes one.

mod remote;

use std::{
    sync::{Arc, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use api::{check::Check, error::Reason};
use secrecy::SecretString;
use tonic::Code;

pub(crate) use self::remote::RemoteAuthority;
use crate::{
    Error, OrgId, ProjectId, Result,
    call::{Account, Call, Context},
    denials::Denied,
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

    /// Fails once the reader of a stream lost a right that the call was let in with: its credential ended, or
    /// a permission is gone. A hidden object answers like a missing permission: the reader knows it.
    pub(crate) async fn revalidate(&self, context: &Context) -> Result<()> {
        if context.account.is_some() {
            self.still(context).await?;
        }
        let rights = context.stream_rights.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for it in rights {
            let question = it.question(!context.rule.read);
            let decision = self.authority()?.decide(context, &question).await?;
            if !decision.allowed && !decision.visible {
                return Err(Error::Denied { permission: it.permission });
            }
            decision.check(&question)?;
        }
        Ok(())
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
        let permission = question.permission.to_owned();
        let (org_id, project_id) = (question.org_id, question.project_id);
        let decided = Decided { authority, asked, permission, org_id, project_id };
        if let Some(open_call) = &context.open_call {
            open_call.count_in(org_id)?;
            let mut rights = context.stream_rights.lock().unwrap_or_else(PoisonError::into_inner);
            rights.push(decided.clone());
        }
        if question.write {
            context.decided.lock().unwrap_or_else(PoisonError::into_inner).push(decided);
        }
        Ok(decision)
    }
}

/// A decision that a change or a stream rests on.
#[derive(Clone)]
pub(crate) struct Decided {
    authority: Arc<dyn Authority>,
    asked: Instant,
    permission: String,
    org_id: OrgId,
    project_id: Option<ProjectId>,
}

impl Decided {
    fn question(&self, write: bool) -> Question<'_> {
        let (permission, org_id) = (self.permission.as_str(), self.org_id);
        Question { permission, org_id, project_id: self.project_id, write }
    }
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
            it.asked = Instant::now();
            let question = it.question(true);
            it.authority.decide(context, &question).await?.check(&question)?;
        }
    }
    Ok(())
}

/// An id that is no UUID names nothing, so nothing can be told by answering about the other fields, too.
fn all_violations<M: Check>(call: &Call<M>, noun: &'static str) -> Error {
    call.check().err().unwrap_or(Error::NotFound(noun))
}
