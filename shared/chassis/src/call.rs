//! One call: who makes it, by which rule, from where, and its message.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use api::{check::Check, error::Reason, event as pb};
use secrecy::{ExposeSecret, SecretString};
use time::{Duration, OffsetDateTime};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, metadata::MetadataValue};
use uuid::Uuid;

use crate::{
    Error, OrgId, ProjectId, Result, UserId,
    access::Decided,
    denials::Denied,
    error::Reply,
    rule::{Audience, Rule},
    server::limits::OpenCall,
    token::{self, Token},
};

/// A signed-in account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The account.
    pub user_id: UserId,
    /// Its address.
    pub email: String,
    /// Its name.
    pub display_name: String,
    /// Whether the address is confirmed.
    pub email_verified: bool,
    /// The session or key that proved it.
    pub credential_id: Uuid,
    /// What the key may do at most, if it was a key.
    pub key: Option<KeyPower>,
    /// When the person last proved who they are; a key never does.
    pub authenticated_at: Option<OffsetDateTime>,
}

/// What an API key may do at most. Its owner's rights at that moment bound it further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPower {
    /// The only organization in which it works.
    pub org_id: OrgId,
    /// The only project on which it works, if it is bound to one.
    pub project_id: Option<ProjectId>,
    /// Whether it may change things.
    pub full: bool,
    /// What it is called.
    pub name: String,
}

/// How long a proof of who somebody is counts as fresh (ID-6).
const FRESH: Duration = Duration::minutes(5);

impl Account {
    /// Refuses unless the person proved who they are in the last minutes.
    pub fn require_fresh(&self, now: OffsetDateTime) -> Result<()> {
        if self.authenticated_at.is_some_and(|it| it + FRESH > now) {
            return Ok(());
        }
        Err(Error::Refused {
            code: Code::FailedPrecondition,
            reason: Reason::FreshLoginRequired,
            message:
                "prove again who you are: call SessionService/Reauthenticate, then repeat this"
                    .to_owned(),
            metadata: vec![],
        })
    }
}

/// Everything about a call but its message. The server makes it, once per call.
#[derive(Debug)]
pub struct Context {
    /// The rule of the method.
    pub rule: Arc<Rule>,
    /// Who is asking, if they are signed in.
    pub account: Option<Account>,
    /// The service that makes the call, proven by its certificate or by living in this process.
    pub service: Option<String>,
    /// Where the call came from.
    pub origin: pb::Origin,
    /// When the answer is no longer wanted.
    pub deadline: Instant,
    /// Cancelled when nobody waits for the answer any more. Work that was begun goes on; waiting for some
    /// is of no use.
    pub gone: CancellationToken,
    /// The change that the answer must know of, as its caller says.
    pub known: Option<String>,
    /// The events that the call has written; go back to its caller.
    pub(crate) wrote: Mutex<Vec<Uuid>>,
    /// The newest state of access that the call has seen; goes back to its caller.
    pub(crate) seen: Mutex<Option<String>>,
    /// What was refused, for the audit log.
    pub(crate) denied: Mutex<Option<Denied>>,
    /// What was decided for this call, and when it was asked.
    pub(crate) decided: Mutex<Vec<Decided>>,
    /// The rights with which a stream was let in, checked again as long as it runs.
    pub(crate) stream_rights: Mutex<Vec<Decided>>,
    /// The place of a stream or a long poll among the open calls.
    pub(crate) open_call: Option<OpenCall>,
    /// The credential, to be passed on to the services that this call needs.
    pub(crate) bearer: Option<SecretString>,
}

/// The metadata in which a caller says, and is told, a state of access.
pub(crate) const CONSISTENCY_TOKEN: &str = "tenantry-consistency-token";

/// The metadata in which a caller is told of the events that its call has written, the primary one first:
/// what to ask the audit log for a receipt of.
pub(crate) const EVENT_IDS: &str = "tenantry-event-ids";

/// One call, with its message.
#[derive(Debug)]
pub struct Call<M> {
    context: Arc<Context>,
    /// What is asked for.
    pub message: M,
}

impl<M> std::ops::Deref for Call<M> {
    type Target = Context;
    fn deref(&self) -> &Context {
        &self.context
    }
}

impl<M: Check> Call<M> {
    /// Takes a request apart. If its rule is decided already, checks its fields, too; otherwise
    /// [`crate::Access`] does so after it has decided: authorization comes before validation.
    pub fn of(request: Request<M>) -> Result<Self> {
        let (_, mut extensions, message) = request.into_parts();
        let context = extensions.remove::<Arc<Context>>();
        let context = context.ok_or_else(|| anyhow::anyhow!("the server stack was bypassed"))?;
        let call = Self { context, message };
        if !matches!(call.rule.audience, Audience::Permission(_)) {
            call.check()?;
        }
        Ok(call)
    }

    /// Everything about the call but its message, for what outlives the handler.
    pub fn context(&self) -> Arc<Context> {
        self.context.clone()
    }

    /// Fails with every field that breaks its rule.
    pub(crate) fn check(&self) -> Result<()> {
        let violations = self.message.violations();
        if violations.is_empty() { Ok(()) } else { Err(Error::Invalid(violations)) }
    }
}

impl Context {
    /// The agent token of the connected server that calls, to be checked by the method (`Rule::agents`).
    pub fn agent(&self) -> Option<Token> {
        Token::parse(token::Kind::Agent, self.bearer.as_ref()?.expose_secret())
    }

    /// The account, which every method but a public one has.
    pub fn account(&self) -> Result<&Account> {
        let missing = "send a credential as `authorization: Bearer <token>`";
        let error = Error::Unauthenticated(Reason::MissingCredential, missing);
        self.account.as_ref().ok_or(error)
    }

    /// A request to another service on behalf of the same person: with their credential, the rest of
    /// their time, and the same request id and trace.
    pub fn forward<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let rest = self.deadline.saturating_duration_since(Instant::now());
        request.set_timeout(rest.saturating_sub(std::time::Duration::from_millis(50)));
        let metadata = request.metadata_mut();
        let mut put = |name: &'static str, value: &str| {
            if let Ok(value) = MetadataValue::try_from(value) {
                metadata.insert(name, value);
            }
        };
        if let Some(bearer) = &self.bearer {
            put("authorization", &format!("Bearer {}", bearer.expose_secret()));
        }
        if let Some(known) = &self.known {
            put(CONSISTENCY_TOKEN, known);
        }
        put("x-request-id", &self.origin.request_id);
        put("traceparent", &self.origin.traceparent);
        put("tenantry-origin-address", &self.origin.address);
        put("tenantry-origin-agent", &self.origin.user_agent);
        request
    }

    /// Tells the caller of this state of access, in the metadata of the answer.
    pub fn saw(&self, token: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !token.is_empty() {
            *seen = Some(token.to_owned());
        }
    }

    /// Tells the caller of these events, in the metadata of the answer.
    pub(crate) fn wrote(&self, events: Vec<Uuid>) {
        self.wrote.lock().unwrap_or_else(PoisonError::into_inner).extend(events);
    }

    /// Who acts, as the audit log keeps it.
    pub(crate) fn actor(&self) -> pb::Actor {
        match (&self.account, &self.service) {
            (Some(account), _) => user(account),
            (None, Some(service)) => system(service),
            (None, None) => {
                pb::Actor { kind: pb::ActorKind::Anonymous.into(), ..Default::default() }
            }
        }
    }

    /// Whose idempotency keys this call uses.
    pub(crate) fn idempotency_scope(&self) -> String {
        match (&self.account, &self.service) {
            (Some(it), _) => it.user_id.to_string(),
            (None, Some(service)) => service.clone(),
            // Anyone may send these methods, so the network address keeps strangers' keys apart.
            (None, None) => format!("anonymous@{}", self.origin.address),
        }
    }
}

/// An account as an actor, or its key.
pub(crate) fn user(it: &Account) -> pb::Actor {
    let (kind, name) = match &it.key {
        Some(key) => (pb::ActorKind::ApiKey, &key.name),
        None => (pb::ActorKind::User, &it.display_name),
    };
    pb::Actor {
        kind: kind.into(),
        id: it.user_id.to_string(),
        name: name.clone(),
        email: it.email.clone(),
        credential_id: it.credential_id.to_string(),
    }
}

/// The suite itself as an actor.
pub(crate) fn system(service: &str) -> pb::Actor {
    let (id, name) = (service.to_owned(), format!("the {service} service"));
    pb::Actor { kind: pb::ActorKind::System.into(), id, name, ..Default::default() }
}

/// Answers a call.
pub fn reply<M>(message: M) -> Reply<M> {
    Ok(Response::new(message))
}
