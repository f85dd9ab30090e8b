//! The server stack. Every call passes these steps in this order:
//!
//! 1. Protocol ([`protocol`]), rule ([`rule`](crate::rule)), origin ([`origin`]), trace span ([`observe`]).
//! 2. Request body, or the first message of a stream, within its size limit and deadline ([`receive`]).
//! 3. Permit of the calls in flight ([`limits`]).
//! 4. Authentication of the account or service, and the method's audience ([`identify`]).
//! 5. For streams and long polls: a reservation of an open call ([`limits`]). Long polls return their permit.
//! 6. The handler, in a task of its own, until it ends or the deadline passes ([`deadline`]).
//! 7. After the handler: denials for the audit log ([`denials`](crate::denials)), metadata of the response.
//! 8. For streams: repeated checks of the reader's permissions ([`stream`]).
//! 9. Error details for statuses that tonic made, request id, log line, metric.

pub mod deadline;
pub mod identify;
pub mod limits;
pub mod observe;
pub mod origin;
mod protocol;
pub mod receive;
mod stream;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as Task, Poll},
    time::{Duration, Instant},
};

use api::{error::Reason, event as pb};
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, request::Parts};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout_at;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Status, body::Body, service::Routes};
use tower::Service;
use tracing::Instrument;

use self::{
    deadline::CallTime,
    identify::{Caller, bearer},
    limits::{Holder, Limits, OpenCall, TOO_MANY_CALLS},
    receive::{Extent, ReceiveError, ReceivedBody},
};
use crate::{
    Clock,
    access::{Access, DECISION_AGE_MAX},
    call::{CONSISTENCY_TOKEN, Context, EVENT_IDS},
    denials::Denials,
    error::{overloaded, status},
    key,
    key_limits::KeyLimits,
    rule::{Audience, Rule, Rules},
};

/// The authenticated peer of a connection.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A service of the suite with this name.
    Service(String),
    /// A client without a certificate.
    Client,
}

/// The connection of a request; an extension of the request.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Address of the peer.
    pub address: SocketAddr,
    /// Name of the service in the peer's certificate; `None` without a certificate.
    pub service: Option<String>,
}

/// The server stack around the services of this process.
#[derive(Clone)]
pub struct Stack {
    shared: Arc<Shared>,
    routes: Routes,
}

/// State that all calls share.
pub struct Shared {
    /// Rules of the methods.
    pub rules: Rules,
    /// Authorization.
    pub access: Access,
    /// Handlers that are running. They run to their end, although their clients may have disconnected.
    pub running: TaskTracker,
    /// Limits of connections, bodies and calls.
    pub limits: Arc<Limits>,
    /// Rate limits of API keys.
    pub keys: KeyLimits,
    /// Recorder of denied calls.
    pub denials: Denials,
    /// The clock.
    pub clock: Clock,
    /// Longest duration of a call.
    pub deadline_max: Duration,
    /// Metrics of calls.
    pub meter: observe::Meter,
    /// Injected fault: drops a handler when its deadline passes or its client disconnects.
    pub drop_handlers: bool,
}

/// Largest request in bytes: a message of 4 MiB with its gRPC prefix of five bytes.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024 + 5;

/// Time after its deadline at which a handler is dropped. Statements and remote calls have time-outs of
/// seconds, so only a defect can reach it.
const OVERRUN_MAX: Duration = Duration::from_secs(60);

impl Stack {
    /// Puts the stack around the services in `routes`.
    pub fn new(shared: Shared, routes: Routes) -> Self {
        Self { shared: Arc::new(shared), routes }
    }

    /// Limits of connections, bodies and calls.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.shared.limits
    }

    /// Handlers that are running.
    pub fn running(&self) -> &TaskTracker {
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
    /// Steps 1 and 9: the outside of the stack, which also sees calls that a later step refuses.
    async fn serve(self: Arc<Self>, routes: Routes, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        if let Some(refusal) = protocol::refusal(request.headers()) {
            return refusal;
        }
        let Some(rule) = self.rules.get(request.uri().path()).cloned() else {
            let message = "unknown method; list the methods of this server with `grpcurl … list`";
            return status(Code::Unimplemented, Reason::UnknownMethod, message, vec![]).into_http();
        };
        let peer = peer(&request);
        let mut origin = origin::of(&rule, &peer, &request, self.limits.proxies());
        let span = observe::span(&rule.method, &origin.request_id, request.headers());
        origin.traceparent = observe::traceparent(&span, request.headers());
        let request_id = origin.request_id.clone();

        let result = self.clone().process(routes, request, rule.clone(), peer, origin);
        let result = result.instrument(span.clone()).await;

        let mut response = with_error_details(result.unwrap_or_else(Status::into_http));
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert("x-request-id", value);
        }
        let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |it| it.code());
        self.meter.record(&rule, &span, code, started.elapsed());
        response
    }

    /// Steps 2 to 8. An error is the status that refuses the call.
    async fn process(
        self: Arc<Self>,
        routes: Routes,
        request: Request<Body>,
        rule: Arc<Rule>,
        peer: Peer,
        origin: pb::Origin,
    ) -> Result<Response<Body>, Status> {
        let time = CallTime::of(request.headers(), self.deadline_max);
        let address = origin.address.as_str();
        let (mut parts, body) = request.into_parts();

        // 2. The body. A slow sender holds a reservation of its own bytes, but no permit.
        let extent = Extent::of(&rule);
        let receive =
            self.limits.receive_extent(body, extent, REQUEST_BYTES_MAX, time.deadline, address);
        let received = receive.await.map_err(body_error)?;

        // 3. The permit.
        let permit = self
            .limits
            .permits
            .clone()
            .try_acquire_owned()
            .map_err(|_| overloaded(TOO_MANY_CALLS))?;

        // 4. Authentication.
        let bearer = bearer(&parts.headers);
        let identified = self.identify(&rule, &peer, bearer.as_ref(), address, &parts);
        let identified = timeout_at(time.deadline.into(), identified).await;
        let caller = identified.map_err(|_| time.exceeded(&rule))??;

        // 5. The reservation of a stream or a long poll.
        let open_call = self.open_call(&rule, &caller, bearer.as_ref(), address)?;
        let permit = Some(permit).filter(|_| !rule.long_poll);

        let disconnected = CancellationToken::new();
        // Dropped with this future: when the client has its response, or has disconnected.
        let _disconnect_guard = disconnected.clone().drop_guard();
        let context = Arc::new(Context {
            rule: rule.clone(),
            account: caller.account,
            service: caller.service,
            origin,
            deadline: time.deadline,
            disconnected,
            consistency_token: origin::header(&parts.headers, CONSISTENCY_TOKEN),
            emitted_ids: Mutex::default(),
            read_token: Mutex::default(),
            is_decided: AtomicBool::default(),
            denied: Mutex::default(),
            change_decisions: Mutex::default(),
            is_outdated: AtomicBool::default(),
            stream_decisions: Mutex::default(),
            open_call,
            bearer,
        });
        parts.extensions.insert(context.clone());

        // 6. to 8. The handler. It holds the permit and the bytes until it has ended.
        let handler = self.clone().handle(routes, parts, received, context);
        let handler = Box::pin(async move {
            let _until_ended = permit;
            handler.await
        });
        self.run(handler, &rule, &time).await
    }

    /// Step 6: runs a handler in a task of its own and waits for its response until the deadline. After that,
    /// or when the client disconnects, the handler continues to its end: it may have a transaction open.
    async fn run(
        &self,
        handler: BoxFuture<'static, Response<Body>>,
        rule: &Rule,
        time: &CallTime,
    ) -> Result<Response<Body>, Status> {
        let deadline = time.deadline.into();
        if self.drop_handlers {
            return timeout_at(deadline, handler).await.map_err(|_| time.exceeded(rule));
        }
        let handler = timeout_at(deadline + OVERRUN_MAX, handler);
        let task = self.running.spawn(handler.in_current_span());
        match timeout_at(deadline, task).await {
            Ok(Ok(Ok(response))) => Ok(response),
            Ok(Err(panic)) => {
                tracing::error!(%panic, "a handler panicked");
                Err(status(Code::Internal, Reason::Internal, "internal error", vec![]))
            }
            Ok(Ok(Err(_))) | Err(_) => Err(time.exceeded(rule)),
        }
    }

    /// The handler with steps 7 and 8. A change whose decisions became too old during its transaction is
    /// repeated from its authorization on, while there is time; but not a stream, which is not kept.
    async fn handle(
        self: Arc<Self>,
        mut routes: Routes,
        parts: Parts,
        received: ReceivedBody,
        context: Arc<Context>,
    ) -> Response<Body> {
        let ReceivedBody { bytes, mut rest, reservation: _until_ended } = received;
        let response = loop {
            let body = receive::body(bytes.clone(), rest.take());
            let request = Request::from_parts(parts.clone(), body);
            let response = routes.call(request).await.unwrap_or_else(|never| match never {});
            let is_late = Instant::now() + DECISION_AGE_MAX > context.deadline;
            if !context.begin_again() || is_late || context.rule.client_streaming {
                break response;
            }
        };
        self.denials.record(&context, response.headers()).await;
        let response = with_metadata(response, &context);
        let refusal = Status::from_header_map(response.headers());
        if refusal.is_none() && lacks_decision(&context) {
            let method = &context.rule.method;
            tracing::error!(method, "the handler did not check the permission");
            return status(Code::Internal, Reason::Internal, "internal error", vec![]).into_http();
        }
        if !context.rule.streaming || refusal.is_some() {
            return response;
        }
        let (access, clock) = (self.access.clone(), self.clock.clone());
        response.map(|body| stream::revalidated(body, context, access, clock))
    }

    /// Step 5: reserves an open call, if the method is a stream or a long poll.
    fn open_call(
        &self,
        rule: &Rule,
        caller: &Caller,
        bearer: Option<&SecretString>,
        address: &str,
    ) -> Result<Option<OpenCall>, crate::Error> {
        if !rule.streaming && !rule.long_poll {
            return Ok(None);
        }
        let digest = |it: &SecretString| key::hash(it.expose_secret().as_bytes());
        let account = caller.account.as_ref();
        let holder = account
            .map(|it| Holder::Account(it.user_id))
            .or_else(|| bearer.map(|it| Holder::Credential(digest(it))));
        // A service that calls for itself is not limited by address.
        let is_service_itself = caller.service.is_some() && holder.is_none();
        self.limits.open_call(holder, (!is_service_itself).then_some(address)).map(Some)
    }
}

/// True if the method requires a permission and its handler made no decision. Its response is not sent,
/// because the credential of the caller has not been verified either.
fn lacks_decision(context: &Context) -> bool {
    let requires_permission = matches!(context.rule.audience, Audience::Permission(_));
    requires_permission && !context.is_decided.load(Ordering::Relaxed)
}

/// Returns the status for a body that was not received.
fn body_error(error: ReceiveError) -> Status {
    match error {
        ReceiveError::Timeout => {
            let message = "the request did not arrive in time and was not processed; send it again";
            status(Code::DeadlineExceeded, Reason::DeadlineExceeded, message, vec![])
        }
        ReceiveError::TooLarge => {
            let message = "the request is larger than 4 MiB; split it into several requests";
            status(Code::ResourceExhausted, Reason::MessageTooLarge, message, vec![])
        }
        ReceiveError::Exhausted(exhausted) => limits::refusal(exhausted, "address"),
        ReceiveError::Broken => {
            let message = "the request was incomplete and was not processed; send it again";
            status(Code::Cancelled, Reason::MalformedRequest, message, vec![])
        }
    }
}

/// Returns the peer of a request: set by a channel inside this process, or from the certificate.
fn peer(request: &Request<Body>) -> Peer {
    let extensions = request.extensions();
    if let Some(peer) = extensions.get::<Peer>() {
        return peer.clone();
    }
    let service = extensions.get::<Connection>().and_then(|it| it.service.clone());
    service.map_or(Peer::Client, Peer::Service)
}

/// Largest number of event ids in the metadata of a response, whose headers have at most 8 KiB.
const EVENT_IDS_MAX: usize = 50;

/// Adds the consistency token and the event ids to the metadata of a response.
fn with_metadata(mut response: Response<Body>, context: &Context) -> Response<Body> {
    let event_ids = {
        let ids = context.emitted_ids.lock().unwrap_or_else(PoisonError::into_inner);
        let ids: Vec<String> = ids.iter().take(EVENT_IDS_MAX).map(ToString::to_string).collect();
        ids.join(",")
    };
    if let Some(value) = HeaderValue::from_str(&event_ids).ok().filter(|it| !it.is_empty()) {
        response.headers_mut().insert(EVENT_IDS, value);
    }
    let token = context.read_token.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(value) = token.and_then(|it| HeaderValue::from_str(&it).ok()) {
        response.headers_mut().insert(CONSISTENCY_TOKEN, value);
    }
    response
}

/// Adds error details to a status without them, which tonic made.
fn with_error_details(response: Response<Body>) -> Response<Body> {
    let Some(bare) = Status::from_header_map(response.headers()) else { return response };
    if bare.code() == Code::Ok || !bare.details().is_empty() {
        return response;
    }
    let message = bare.message();
    let (code, reason) = match bare.code() {
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
