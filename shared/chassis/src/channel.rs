//! Channels between the services of the suite, in one process or over the network.

use std::{
    sync::{Arc, OnceLock, Weak},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use tonic::{Status, body::Body};
use tower::{BoxError, Service, ServiceExt, util::BoxCloneSyncService};
use tracing::{Instrument, Span};

use crate::{
    db::assert_no_transaction,
    error,
    server::{Peer, Stack},
    trace,
};

/// Client of a service in another process.
pub type RemoteService = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// Location of a service. It is set once every service of the process is installed.
pub enum Target {
    /// In this process: calls go to the same server stack, without the network. Weak, because the handlers of
    /// the stack hold channels.
    Local(Weak<Stack>),
    /// In another process.
    Remote(RemoteService),
}

/// A channel from one service to another, for the generated clients.
#[derive(Clone)]
pub struct ServiceChannel {
    from: &'static str,
    to: Arc<OnceLock<Target>>,
}

impl ServiceChannel {
    /// Creates a channel from the service `from`. Until `to` is set, its calls fail with UNAVAILABLE.
    pub fn new(from: &'static str, to: Arc<OnceLock<Target>>) -> Self {
        Self { from, to }
    }
}

impl Service<Request<Body>> for ServiceChannel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        assert_no_transaction();
        let span = client_span(&mut request);
        match self.to.get() {
            None => {
                Box::pin(async { Err(Status::unavailable("the suite is starting; retry later")) })
            }
            Some(Target::Local(stack)) => {
                let Some(stack) = stack.upgrade() else {
                    return Box::pin(async { Err(Status::unavailable("the suite has ended")) });
                };
                request.extensions_mut().insert(Peer::Service(self.from.to_owned()));
                let response = Stack::clone(&stack).call(request).instrument(span);
                Box::pin(async { Ok(response.await.unwrap_or_else(|never| match never {})) })
            }
            Some(Target::Remote(remote)) => {
                let response = remote.clone().oneshot(request).instrument(span);
                Box::pin(async { response.await.map_err(|error| unavailable(&*error)) })
            }
        }
    }
}

/// Creates the span of a request to another service, and sends its trace context with the request.
fn client_span(request: &mut Request<Body>) -> Span {
    let method = request.uri().path().trim_start_matches('/');
    let span = trace::span(trace::Kind::Client, method);
    trace::set(&span, "rpc.system.name", "grpc");
    if let Ok(traceparent) = HeaderValue::try_from(trace::traceparent(&span))
        && !traceparent.is_empty()
    {
        request.headers_mut().insert("traceparent", traceparent);
    }
    span
}

/// Converts a failure of the transport to UNAVAILABLE, with all its causes in the message.
fn unavailable(error: &(dyn std::error::Error + 'static)) -> Status {
    Status::unavailable(error::causes(error))
}
