//! The context of one call: its caller, its rule, its origin and its deadline; and the call with its message.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use api::{check::Check, error::Reason, event as pb};
use secrecy::{ExposeSecret, SecretString};
use time::{Duration, OffsetDateTime};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Streaming, metadata::MetadataValue};
use uuid::Uuid;

use crate::{
    Error, OrgId, ProjectId, Result, UserId,
    access::PastDecision,
    denials::Denied,
    error::Reply,
    rule::{Audience, Rule},
    server::limits::OpenCall,
    token::{self, Token},
};

/// A signed-in account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Id of the account.
    pub user_id: UserId,
    /// E-mail address.
    pub email: String,
    /// Display name.
    pub display_name: String,
    /// True if the e-mail address is confirmed.
    pub email_verified: bool,
    /// Id of the session or API key that authenticated the call.
    pub credential_id: Uuid,
    /// Scope of the API key, if the credential is one.
    pub key: Option<ApiKeyScope>,
    /// Time of the last authentication by the person; `None` for an API key.
    pub authenticated_at: Option<OffsetDateTime>,
}

/// Upper bound of the permissions of an API key. Its owner's current permissions bound it, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyScope {
    /// The only organization in which the key is valid.
    pub org_id: OrgId,
    /// The only project on which the key is valid; `None` for all of the organization.
    pub project_id: Option<ProjectId>,
    /// True if the key may change data; false for a read-only key.
    pub full: bool,
    /// Name of the key.
    pub name: String,
}

/// Time after an authentication in which sensitive changes are allowed (ID-6).
const FRESH_LOGIN: Duration = Duration::minutes(5);

impl Account {
    /// Fails unless the person authenticated within the last 5 minutes.
    pub fn require_fresh(&self, now: OffsetDateTime) -> Result<()> {
        if self.authenticated_at.is_some_and(|it| it + FRESH_LOGIN > now) {
            return Ok(());
        }
        Err(Error::Refused {
            code: Code::FailedPrecondition,
            reason: Reason::FreshLoginRequired,
            message: "this needs a login within the last 5 minutes: call SessionService/Reauthenticate, then \
                      repeat this call"
                .to_owned(),
            metadata: vec![],
        })
    }
}

/// Context of a call: everything but its message. The server stack creates one for each call.
#[derive(Debug)]
pub struct Context {
    /// Rule of the method.
    pub rule: Arc<Rule>,
    /// The account that calls, if there is a credential.
    pub account: Option<Account>,
    /// The service that calls, authenticated by its certificate or because it runs in this process.
    pub service: Option<String>,
    /// Network address, user agent, request id and trace of the caller.
    pub origin: pb::Origin,
    /// Deadline of the call.
    pub deadline: Instant,
    /// Cancelled when the client has its response or has disconnected. A handler that has begun a change
    /// completes it; one that waits for something stops.
    pub disconnected: CancellationToken,
    /// Consistency token of the request: the oldest state of access that its decisions may be read from.
    pub consistency_token: Option<String>,
    /// Ids of the events that the call has written, for the response's metadata.
    pub(crate) emitted_ids: Mutex<Vec<Uuid>>,
    /// Newest state of access that the call has read, for the response's metadata.
    pub(crate) read_token: Mutex<Option<String>>,
    /// True after a decision, which verifies the credential, too.
    pub(crate) is_decided: AtomicBool,
    /// Denied permission, for the audit log.
    pub(crate) denied: Mutex<Option<Denied>>,
    /// Decisions that a change rests on, repeated before its transaction if they are too old.
    pub(crate) change_decisions: Mutex<Vec<PastDecision>>,
    /// True if one of them became too old during the transaction of the change, so that the server stack
    /// repeats the call.
    pub(crate) is_outdated: AtomicBool,
    /// Decisions that a stream rests on, checked again while it runs.
    pub(crate) stream_decisions: Mutex<Vec<PastDecision>>,
    /// Reservation of a stream or a long poll in the limits of open calls.
    pub(crate) open_call: Option<OpenCall>,
    /// Credential, to be forwarded to the services that this call calls.
    pub(crate) bearer: Option<SecretString>,
}

/// Metadata key of the consistency token, in requests and responses.
pub(crate) const CONSISTENCY_TOKEN: &str = "tenantry-consistency-token";

/// Metadata key of the ids of the events that a call has written, in responses, the primary event first. With
/// an id the caller can get an inclusion proof from the audit log.
pub(crate) const EVENT_IDS: &str = "tenantry-event-ids";

/// A call: its context and its message.
#[derive(Debug)]
pub struct Call<M> {
    context: Arc<Context>,
    /// The request message.
    pub message: M,
}

/// The messages of a stream of requests after the first one.
#[derive(Debug)]
pub struct IncomingMessages<M>(Streaming<M>);

impl<M: Check> IncomingMessages<M> {
    /// Returns the next message, normalized and with valid fields; `None` after the last one. Fails if the
    /// caller is gone.
    pub async fn next(&mut self) -> Result<Option<M>> {
        let message = self.0.message().await.map_err(|it| Error::Remote(Box::new(it)))?;
        let Some(mut message) = message else { return Ok(None) };
        message.normalize();
        let violations = message.violations();
        if violations.is_empty() { Ok(Some(message)) } else { Err(Error::Invalid(violations)) }
    }
}

impl<M> std::ops::Deref for Call<M> {
    type Target = Context;
    fn deref(&self) -> &Context {
        &self.context
    }
}

impl<M: Check> Call<M> {
    /// Makes a call from a request that passed the server stack: normalizes the texts of its message, and
    /// validates its fields. If its rule requires a permission, [`crate::Access`] validates them after it has
    /// decided: authorization comes before validation.
    pub fn of(request: Request<M>) -> Result<Self> {
        let (_, mut extensions, mut message) = request.into_parts();
        message.normalize();
        let context = extensions.remove::<Arc<Context>>();
        let context = context.ok_or_else(|| anyhow::anyhow!("the server stack was bypassed"))?;
        let call = Self { context, message };
        if !matches!(call.rule.audience, Audience::Permission(_)) {
            call.check()?;
        }
        Ok(call)
    }

    /// Makes a call from a stream of requests, with its first message, and returns the rest of the stream.
    pub async fn of_stream(request: Request<Streaming<M>>) -> Result<(Self, IncomingMessages<M>)> {
        let (metadata, extensions, mut stream) = request.into_parts();
        let first = stream.message().await.map_err(|it| Error::Remote(Box::new(it)))?;
        let first = first.ok_or_else(|| Error::invalid("", "the stream has no message"))?;
        let call = Self::of(Request::from_parts(metadata, extensions, first))?;
        Ok((call, IncomingMessages(stream)))
    }

    /// Returns the context, for work that outlives the handler.
    pub fn context(&self) -> Arc<Context> {
        self.context.clone()
    }

    /// Validates the fields of the message; fails with all violations.
    pub(crate) fn check(&self) -> Result<()> {
        let violations = self.message.violations();
        if violations.is_empty() { Ok(()) } else { Err(Error::Invalid(violations)) }
    }
}

impl Context {
    /// Prepares a repetition of the call. Returns false if none is needed.
    pub(crate) fn begin_again(&self) -> bool {
        let is_outdated = self.is_outdated.swap(false, Ordering::Relaxed);
        if is_outdated {
            self.emitted_ids.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.change_decisions.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        is_outdated
    }

    /// Returns the agent token of a connected server. The method verifies it (`Rule::agents`).
    pub fn agent(&self) -> Option<Token> {
        Token::parse(token::Kind::Agent, self.bearer.as_ref()?.expose_secret())
    }

    /// Returns the token of the session that a public method was called with. The method verifies it: the
    /// server stack authenticates nobody for public methods.
    pub fn session(&self) -> Option<Token> {
        Token::parse(token::Kind::Session, self.bearer.as_ref()?.expose_secret())
    }

    /// Returns the account; fails with UNAUTHENTICATED if the call has none.
    pub fn account(&self) -> Result<&Account> {
        let missing = "send a credential as `authorization: Bearer <token>`";
        let error = Error::Unauthenticated(Reason::MissingCredential, missing);
        self.account.as_ref().ok_or(error)
    }

    /// Makes a request to another service on behalf of the caller: with the caller's credential, the
    /// remaining time (less 50 ms for the response), and the same request id, trace and origin.
    pub fn forward<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        request.set_timeout(remaining.saturating_sub(std::time::Duration::from_millis(50)));
        let metadata = request.metadata_mut();
        let mut put = |name: &'static str, value: &str| {
            if let Ok(value) = MetadataValue::try_from(value) {
                metadata.insert(name, value);
            }
        };
        if let Some(bearer) = &self.bearer {
            put("authorization", &format!("Bearer {}", bearer.expose_secret()));
        }
        if let Some(token) = &self.consistency_token {
            put(CONSISTENCY_TOKEN, token);
        }
        put("x-request-id", &self.origin.request_id);
        put("traceparent", &self.origin.traceparent);
        put("tenantry-origin-address", &self.origin.address);
        put("tenantry-origin-agent", &self.origin.user_agent);
        request
    }

    /// Records the state of access that the call has read. The response's metadata returns it.
    pub fn record_read(&self, token: &str) {
        let mut read_token = self.read_token.lock().unwrap_or_else(PoisonError::into_inner);
        if !token.is_empty() {
            *read_token = Some(token.to_owned());
        }
    }

    /// Records the events that the call has written. The response's metadata returns their ids.
    pub(crate) fn record_written(&self, event_ids: Vec<Uuid>) {
        self.emitted_ids.lock().unwrap_or_else(PoisonError::into_inner).extend(event_ids);
    }

    /// Returns the actor of the call's events.
    pub(crate) fn actor(&self) -> pb::Actor {
        match (&self.account, &self.service) {
            (Some(account), _) => account_actor(account),
            (None, Some(service)) => system_actor(service),
            (None, None) => {
                pb::Actor { kind: pb::ActorKind::Anonymous.into(), ..Default::default() }
            }
        }
    }

    /// Returns the scope in which the call's idempotency keys are unique: the account, the service or the
    /// address.
    pub(crate) fn idempotency_scope(&self) -> String {
        match (&self.account, &self.service) {
            (Some(account), _) => account.user_id.to_string(),
            (None, Some(service)) => service.clone(),
            // Public methods have no caller; the address separates the keys of different clients.
            (None, None) => format!("anonymous@{}", self.origin.address),
        }
    }
}

/// Actor of an event: an account, or its API key.
pub(crate) fn account_actor(account: &Account) -> pb::Actor {
    let (kind, name) = match &account.key {
        Some(key) => (pb::ActorKind::ApiKey, &key.name),
        None => (pb::ActorKind::User, &account.display_name),
    };
    pb::Actor {
        kind: kind.into(),
        id: account.user_id.to_string(),
        name: name.clone(),
        email: account.email.clone(),
        credential_id: account.credential_id.to_string(),
    }
}

/// Actor of an event: a service of the suite.
pub(crate) fn system_actor(service: &str) -> pb::Actor {
    pb::Actor {
        kind: pb::ActorKind::System.into(),
        id: service.to_owned(),
        name: format!("the {service} service"),
        ..Default::default()
    }
}

/// Actor of the changes that operators make through the AdminService, which has no credentials.
pub(crate) fn operator_actor() -> pb::Actor {
    pb::Actor {
        kind: pb::ActorKind::System.into(),
        id: "operator".to_owned(),
        name: "an operator".to_owned(),
        ..Default::default()
    }
}

/// Returns the response of a handler.
pub fn reply<M>(message: M) -> Reply<M> {
    Ok(Response::new(message))
}
