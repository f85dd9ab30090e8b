//! What happens to every call, in this order, before and after its handler.

pub(crate) mod origin;

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context as Task, Poll},
    time::{Duration, Instant},
};

use api::{error::Reason, event as pb};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Code, Status,
    body::Body,
    service::Routes,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::Service;
use tracing::Instrument;

use crate::{
    Error,
    access::Access,
    call::{Account, CONSISTENCY_TOKEN, Context, EVENT_IDS},
    denials::Denials,
    error::{overloaded, status},
    key_limits::KeyLimits,
    rule::{Audience, Rule, Rules},
    telemetry, tls, token,
};

/// Who is at the other end of the connection.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// A service of the suite.
    Service(String),
    /// Anyone else.
    Client,
}

/// The server stack around the services of this process.
#[derive(Clone)]
pub(crate) struct Stack {
    shared: Arc<Shared>,
    routes: Routes,
}

/// What all calls share.
pub(crate) struct Shared {
    pub(crate) rules: Rules,
    pub(crate) access: Access,
    /// Work that was accepted and runs to its end, whatever its client does.
    pub(crate) running: TaskTracker,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) keys: KeyLimits,
    pub(crate) denials: Denials,
    /// Whose word about where a call came from is believed.
    pub(crate) proxies: Vec<IpAddr>,
    pub(crate) deadline_max: Duration,
    pub(crate) meter: telemetry::Meter,
    /// Off only in a test that shows why it is needed.
    pub(crate) detached: bool,
}

impl Stack {
    pub(crate) fn new(shared: Shared, routes: Routes) -> Self {
        Self { shared: Arc::new(shared), routes }
    }

    /// Whose word about where a call came from is believed.
    pub(crate) fn proxies(&self) -> &[IpAddr] {
        &self.shared.proxies
    }

    pub(crate) fn running(&self) -> &TaskTracker {
        &self.shared.running
    }
}

impl Service<Request<Body>> for Stack {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (shared, routes) = (self.shared.clone(), self.routes.clone());
        Box::pin(async move { Ok(shared.serve(routes, request).await) })
    }
}

impl Shared {
    /// Request id, trace, log line and metric around a call.
    async fn serve(self: Arc<Self>, routes: Routes, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let Some(rule) = self.rules.get(request.uri().path()).cloned() else {
            let message = "there is no such method; `grpcurl … list` shows what there is";
            return status(Code::Unimplemented, Reason::UnknownMethod, message, vec![]).into_http();
        };
        let peer = peer(&request);
        let mut origin = origin::of(&rule, &peer, &request, &self.proxies);
        let span = telemetry::span(&rule.method, &origin.request_id, request.headers());
        origin.traceparent = telemetry::traceparent(&span, request.headers());
        let request_id = origin.request_id.clone();

        let answer = self.clone().admit(routes, request, rule.clone(), peer, origin);
        let mut response = explained(answer.instrument(span.clone()).await);
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert("x-request-id", value);
        }
        let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |it| it.code());
        self.meter.record(&rule, &span, code, started.elapsed());
        response
    }

    /// Deadline, limit and authentication before the handler.
    async fn admit(
        self: Arc<Self>,
        mut routes: Routes,
        mut request: Request<Body>,
        rule: Arc<Rule>,
        peer: Peer,
        origin: pb::Origin,
    ) -> Response<Body> {
        let budget = budget(request.headers(), self.deadline_max);
        let deadline = Instant::now() + budget;
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            return overloaded().into_http();
        };
        let bearer = bearer(request.headers());
        let identified = tokio::time::timeout_at(
            deadline.into(),
            self.identify(&rule, &peer, bearer.as_ref(), &origin.address),
        );
        let (account, service) = match identified.await {
            Ok(Ok(it)) => it,
            Ok(Err(error)) => return Status::from(error).into_http(),
            Err(_) => return late(&rule, budget),
        };
        let known = origin::text(request.headers(), CONSISTENCY_TOKEN);
        let gone = CancellationToken::new();
        // Dropped with this future, which is when its client has gone, or has its answer.
        let _here = gone.clone().drop_guard();
        let context = Arc::new(Context {
            rule: rule.clone(),
            gone,
            account,
            service,
            origin,
            deadline,
            known,
            wrote: Mutex::default(),
            seen: Mutex::default(),
            decided: Mutex::default(),
            denied: Mutex::default(),
            bearer,
        });
        request.extensions_mut().insert(context.clone());
        let shared = self.clone();
        let work = async move {
            let response = routes.call(request).await;
            drop(permit);
            let response = response.unwrap_or_else(|never| match never {});
            shared.denials.note(&context, response.headers()).await;
            told(response, &context)
        };
        if !self.detached {
            let response = tokio::time::timeout_at(deadline.into(), work).await;
            return response.unwrap_or_else(|_| late(&rule, budget));
        }
        // The client may go away, and its deadline may pass, while a transaction is open. The work goes
        // on in a task of its own, to its end; only the answer is not waited for.
        let task = self.running.spawn(work.in_current_span());
        match tokio::time::timeout_at(deadline.into(), task).await {
            Ok(Ok(response)) => response,
            Ok(Err(panic)) => {
                tracing::error!(%panic, "a handler panicked");
                status(Code::Internal, Reason::Internal, "internal error", vec![]).into_http()
            }
            Err(_) => late(&rule, budget),
        }
    }

    /// The account and the service behind a call, or why its rule does not let it in.
    async fn identify(
        &self,
        rule: &Rule,
        peer: &Peer,
        bearer: Option<&SecretString>,
        address: &str,
    ) -> Result<(Option<Account>, Option<String>), Error> {
        let service = match peer {
            Peer::Service(name) => Some(name.clone()),
            Peer::Client => None,
        };
        let needs_account = match &rule.audience {
            Audience::Public => return Ok((None, service)),
            Audience::Account | Audience::Permission(_) => true,
            // The method knows the servers, and checks the token.
            Audience::Services(_) if rule.agents && bearer.is_some_and(token::is_agent) => {
                return Ok((None, None));
            }
            Audience::Services(names) => {
                admit_service(names, service.as_deref(), bearer.is_some())?;
                false
            }
        };
        let account = match bearer {
            // A read may rest on what was true a second ago; a change may not.
            Some(bearer) => {
                let is_key = token::is_key(bearer);
                if is_key {
                    self.keys.check_address(address)?;
                }
                let account = self.access.authority()?.authenticate(bearer, !rule.read).await;
                if is_key
                    && account.as_ref().is_err_and(|it| it.reason() == Reason::InvalidCredential)
                {
                    self.keys.refused(address);
                }
                let account = account?;
                admit_key(rule, &account)?;
                if account.key.is_some() && matches!(peer, Peer::Client) {
                    self.keys.check(account.credential_id, rule.read)?;
                }
                Some(account)
            }
            None if needs_account => {
                let message = "send a credential as `authorization: Bearer <token>`";
                return Err(Error::Unauthenticated(Reason::MissingCredential, message));
            }
            None => None,
        };
        Ok((account, service))
    }
}

/// What an API key may do by permission is decided with the permission; here is what no permission guards,
/// and what is told before anything else: a read-only key changes nothing (PL-9).
fn admit_key(rule: &Rule, account: &Account) -> Result<(), Error> {
    let Some(key) = &account.key else { return Ok(()) };
    let (reason, message) = match &rule.audience {
        Audience::Account if !rule.keys => {
            (Reason::SessionRequired, "no API key may do this; sign in and use the session")
        }
        Audience::Account | Audience::Permission(_) if !rule.read && !key.full => {
            (Reason::ReadOnlyKey, "this API key is read-only")
        }
        _ => return Ok(()),
    };
    let (code, message) = (Code::PermissionDenied, message.to_owned());
    Err(Error::Refused { code, reason, message, metadata: vec![] })
}

/// Only the named services may call.
fn admit_service(names: &[String], service: Option<&str>, has_bearer: bool) -> Result<(), Error> {
    match service {
        Some(service) if names.iter().any(|it| it == service) => Ok(()),
        None if !has_bearer => {
            let message = "only services of the suite may call this, with their certificate";
            Err(Error::Unauthenticated(Reason::MissingCredential, message))
        }
        _ => Err(Error::Refused {
            code: Code::PermissionDenied,
            reason: Reason::ServiceOnly,
            message: format!("only these services may call this: {}", names.join(", ")),
            metadata: vec![("services", names.join(","))],
        }),
    }
}

fn peer(request: &Request<Body>) -> Peer {
    let extensions = request.extensions();
    if let Some(peer) = extensions.get::<Peer>() {
        return peer.clone();
    }
    let certificates =
        extensions.get::<TlsConnectInfo<TcpConnectInfo>>().and_then(TlsConnectInfo::peer_certs);
    let name = certificates.as_ref().and_then(|it| it.first()).and_then(tls::service_name);
    name.map_or(Peer::Client, Peer::Service)
}

/// The most events that an answer names: an answer's head has 8 KiB.
const EVENT_IDS_MAX: usize = 50;

/// The answer with the state of access that the call has seen, and the events that it has written.
fn told(mut response: Response<Body>, context: &Context) -> Response<Body> {
    let wrote = context.wrote.lock().unwrap_or_else(PoisonError::into_inner);
    let ids: Vec<String> = wrote.iter().take(EVENT_IDS_MAX).map(ToString::to_string).collect();
    drop(wrote);
    if let Some(ids) = HeaderValue::from_str(&ids.join(",")).ok().filter(|it| !it.is_empty()) {
        response.headers_mut().insert(EVENT_IDS, ids);
    }
    let seen = context.seen.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(token) = seen.as_deref().and_then(|it| HeaderValue::from_str(it).ok()) {
        response.headers_mut().insert(CONSISTENCY_TOKEN, token);
    }
    drop(seen);
    response
}

fn bearer(headers: &HeaderMap) -> Option<SecretString> {
    let value = headers.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().into())
}

/// How long a call may take: what its client asks for, within our limit, and a little less than that,
/// because tonic's own timer answers CANCELLED when it fires first.
fn budget(headers: &HeaderMap, max: Duration) -> Duration {
    let asked = headers.get("grpc-timeout").and_then(|it| it.to_str().ok()).and_then(grpc_timeout);
    let budget = asked.unwrap_or(max).min(max);
    budget.saturating_sub((budget / 10).min(Duration::from_millis(20)))
}

/// `5S`, `250m` (milliseconds): at most eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn late(rule: &Rule, budget: Duration) -> Response<Body> {
    let message =
        format!("no answer within {} ms; a change may still complete", budget.as_millis());
    let metadata = vec![("method", rule.method.clone())];
    status(Code::DeadlineExceeded, Reason::DeadlineExceeded, message, metadata).into_http()
}

/// Gives an answer that tonic made itself a reason, like any other.
fn explained(response: Response<Body>) -> Response<Body> {
    let Some(it) = Status::from_header_map(response.headers()) else { return response };
    if it.code() == Code::Ok || !it.details().is_empty() {
        return response;
    }
    let message = it.message();
    let (code, reason) = match it.code() {
        Code::Internal if message.contains("decode Protobuf") => {
            (Code::InvalidArgument, Reason::MalformedRequest)
        }
        Code::OutOfRange | Code::ResourceExhausted => {
            (Code::ResourceExhausted, Reason::MessageTooLarge)
        }
        Code::Unimplemented => (Code::Unimplemented, Reason::UnknownMethod),
        other => (other, Reason::Internal),
    };
    status(code, reason, message, vec![]).into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_timeouts_count() {
        assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(grpc_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "m", "-1S", "1X", "123456789S", "1.5S", "é"] {
            assert_eq!(grpc_timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_client_cannot_ask_for_more_time_than_there_is() {
        let headers = HeaderMap::from_iter([(
            http::header::HeaderName::from_static("grpc-timeout"),
            HeaderValue::from_static("1H"),
        )]);
        assert!(budget(&headers, Duration::from_secs(30)) < Duration::from_secs(30));
    }
}
