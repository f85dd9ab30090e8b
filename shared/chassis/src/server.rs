//! The server stack: every call passes these steps, in this order, before and after its handler.
//!
//! 1. The rule of the method ([`rule`](crate::rule)), request id, trace, log line and metric.
//! 2. The body, whole, within its limit and its deadline ([`receive`]). Nothing is held until it is there.
//! 3. A permit of the calls in flight ([`limits`]).
//! 4. Who calls ([`identify`]).
//! 5. For streams and long polls: a place among the open calls, instead of the permit ([`limits`]).
//! 6. The handler, in a task of its own.
//! 7. For streams: the rights of the reader, again and again ([`stream`]).

mod deadline;
mod identify;
pub(crate) mod limits;
pub(crate) mod origin;
pub(crate) mod receive;
mod stream;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context as Task, Poll},
    time::{Duration, Instant},
};

use api::{error::Reason, event as pb};
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout_at;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Status, body::Body, service::Routes};
use tower::Service;
use tracing::Instrument;

use self::{
    deadline::CallTime,
    identify::bearer,
    limits::{Holder, Limits, OpenCall},
    receive::{NotReceived, Received},
};
use crate::{
    Clock,
    access::Access,
    call::{Account, CONSISTENCY_TOKEN, Context, EVENT_IDS},
    denials::Denials,
    error::{overloaded, status},
    key,
    key_limits::KeyLimits,
    rule::{Rule, Rules},
    telemetry,
};

/// Who is at the other end of the connection.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// A service of the suite.
    Service(String),
    /// Anyone else.
    Client,
}

/// The connection of a request; an extension of the request.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) address: SocketAddr,
    /// The service of the suite that its certificate names.
    pub(crate) service: Option<String>,
}

/// The server stack around the services of this process.
#[derive(Clone)]
pub(crate) struct Stack {
    shared: Arc<Shared>,
    routes: Routes,
}

/// State that all calls share.
pub(crate) struct Shared {
    pub(crate) rules: Rules,
    pub(crate) access: Access,
    /// Work that was accepted and runs to its end, whatever its client does.
    pub(crate) running: TaskTracker,
    pub(crate) limits: Arc<Limits>,
    pub(crate) keys: KeyLimits,
    pub(crate) denials: Denials,
    pub(crate) clock: Clock,
    pub(crate) deadline_max: Duration,
    pub(crate) meter: telemetry::Meter,
    /// Off only in a test that shows why it is needed.
    pub(crate) detached: bool,
}

/// The largest request, with the five bytes before its message.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024 + 5;

/// How long after its deadline a handler may go on before it is dropped, with whatever it holds. Statements
/// and remote calls have time-outs of seconds, so this is reached by a defect only.
const OVERRUN_MAX: Duration = Duration::from_secs(60);

impl Stack {
    pub(crate) fn new(shared: Shared, routes: Routes) -> Self {
        Self { shared: Arc::new(shared), routes }
    }

    pub(crate) fn limits(&self) -> &Arc<Limits> {
        &self.shared.limits
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
        let mut origin = origin::of(&rule, &peer, &request, self.limits.proxies());
        let span = telemetry::span(&rule.method, &origin.request_id, request.headers());
        origin.traceparent = telemetry::traceparent(&span, request.headers());
        let request_id = origin.request_id.clone();

        let answer = self.clone().admit(routes, request, rule.clone(), peer, origin);
        let answer = answer.instrument(span.clone()).await;
        let mut response = explained(answer.unwrap_or_else(Status::into_http));
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert("x-request-id", value);
        }
        let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |it| it.code());
        self.meter.record(&rule, &span, code, started.elapsed());
        response
    }

    /// Body, limits and authentication before the handler.
    async fn admit(
        self: Arc<Self>,
        routes: Routes,
        request: Request<Body>,
        rule: Arc<Rule>,
        peer: Peer,
        origin: pb::Origin,
    ) -> Result<Response<Body>, Status> {
        let time = CallTime::of(request.headers(), self.deadline_max);
        let (parts, body) = request.into_parts();
        let address = origin.address.as_str();
        let body = self.limits.receive(body, REQUEST_BYTES_MAX, time.deadline, address).await;
        let Received { bytes, share } = body.map_err(not_received)?;
        let permit = self.limits.permits.clone().try_acquire_owned().map_err(|_| overloaded())?;

        let bearer = bearer(&parts.headers);
        let identified = self.identify(&rule, &peer, bearer.as_ref(), address);
        let identified = timeout_at(time.deadline.into(), identified).await;
        let (account, service) = identified.map_err(|_| time.late(&rule))??;
        let (of, by) = (account.as_ref(), service.as_deref());
        let open_call = self.open_call(&rule, of, by, bearer.as_ref(), address)?;
        let permit = Some(permit).filter(|_| !rule.long_poll);

        let known = origin::text(&parts.headers, CONSISTENCY_TOKEN);
        let gone = CancellationToken::new();
        // Dropped with this future, which is when its client has gone, or has its answer.
        let _here = gone.clone().drop_guard();
        let deadline = time.deadline;
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
            stream_rights: Mutex::default(),
            open_call,
            denied: Mutex::default(),
            bearer,
        });
        let mut request = Request::from_parts(parts, Body::new(Full::new(bytes)));
        request.extensions_mut().insert(context.clone());
        let work = self.clone().handle(routes, request, context);
        // The permit and the bytes of the request are held until the handler has ended.
        let work = Box::pin(async move {
            let _held = (permit, share);
            work.await
        });
        self.run(work, &rule, &time).await
    }

    /// Runs a handler until it answers or its deadline passes.
    async fn run(
        &self,
        work: BoxFuture<'static, Response<Body>>,
        rule: &Rule,
        time: &CallTime,
    ) -> Result<Response<Body>, Status> {
        let deadline = time.deadline.into();
        if !self.detached {
            return timeout_at(deadline, work).await.map_err(|_| time.late(rule));
        }
        // The client may go away, and its deadline may pass, while a transaction is open. The work goes
        // on in a task of its own, to its end; only the answer is not waited for.
        let work = timeout_at(deadline + OVERRUN_MAX, work);
        let task = self.running.spawn(work.in_current_span());
        match timeout_at(deadline, task).await {
            Ok(Ok(Ok(response))) => Ok(response),
            Ok(Err(panic)) => {
                tracing::error!(%panic, "a handler panicked");
                Err(status(Code::Internal, Reason::Internal, "internal error", vec![]))
            }
            Ok(Ok(Err(_))) | Err(_) => Err(time.late(rule)),
        }
    }

    /// The handler, and after it refusals for the audit log, metadata of the answer, and checks of a stream.
    async fn handle(
        self: Arc<Self>,
        mut routes: Routes,
        request: Request<Body>,
        context: Arc<Context>,
    ) -> Response<Body> {
        let response = routes.call(request).await.unwrap_or_else(|never| match never {});
        self.denials.note(&context, response.headers()).await;
        let response = told(response, &context);
        if !context.rule.streaming || Status::from_header_map(response.headers()).is_some() {
            return response;
        }
        let (access, clock) = (self.access.clone(), self.clock.clone());
        response.map(|body| stream::revalidated(body, context, access, clock))
    }

    /// A place among the open calls, if the method streams or waits.
    fn open_call(
        &self,
        rule: &Rule,
        account: Option<&Account>,
        service: Option<&str>,
        bearer: Option<&SecretString>,
        address: &str,
    ) -> Result<Option<OpenCall>, crate::Error> {
        if !rule.streaming && !rule.long_poll {
            return Ok(None);
        }
        let credential = |it: &SecretString| key::hash(it.expose_secret().as_bytes());
        let of = account
            .map(|it| Holder::Account(it.user_id))
            .or_else(|| bearer.map(|it| Holder::Credential(credential(it))));
        let itself = service.is_some() && of.is_none();
        self.limits.open(of, (!itself).then_some(address)).map(Some)
    }
}

/// The answer to a request whose body did not arrive.
fn not_received(why: NotReceived) -> Status {
    match why {
        NotReceived::Late => {
            let message = "the request did not arrive in time, nothing was done; send it again";
            status(Code::DeadlineExceeded, Reason::DeadlineExceeded, message, vec![])
        }
        NotReceived::TooLarge => {
            let message = "the request is larger than 4 MiB; send less at once";
            status(Code::ResourceExhausted, Reason::MessageTooLarge, message, vec![])
        }
        NotReceived::Exhausted(exhausted) => limits::refusal(exhausted, "address"),
        NotReceived::Broken => {
            let message = "the request broke off, nothing was done; send it again";
            status(Code::Cancelled, Reason::MalformedRequest, message, vec![])
        }
    }
}

fn peer(request: &Request<Body>) -> Peer {
    let extensions = request.extensions();
    if let Some(peer) = extensions.get::<Peer>() {
        return peer.clone();
    }
    let service = extensions.get::<Connection>().and_then(|it| it.service.clone());
    service.map_or(Peer::Client, Peer::Service)
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
