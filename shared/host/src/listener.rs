//! The HTTP service of the port. It routes gRPC calls to the server stack, pages to their handlers, and
//! health and reflection to services outside the stack, because operators call them without an account.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chassis::server::{Stack, origin};
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, service::Routes};
use tower::Service;

use crate::{
    connection::Acceptor,
    grpc_web::{self, GrpcWeb},
    health::Health,
    stream_end::{ExpiringBody, StreamEnd},
    web::Sites,
};

/// Largest request of a health check, in bytes.
const OPERATOR_BYTES_MAX: usize = 64 * 1024;
/// Time-out of receiving the request of a health check.
const OPERATOR_RECEIVE_MAX: Duration = Duration::from_secs(5);

/// The HTTP service of the port.
#[derive(Clone)]
pub(crate) struct HttpService {
    grpc: GrpcService,
    grpc_web: GrpcWeb,
    /// Page handlers.
    sites: Sites,
}

/// The gRPC services of the port.
#[derive(Clone)]
pub(crate) struct GrpcService {
    /// The services of the suite, behind the server stack.
    pub(crate) stack: Stack,
    /// Health and reflection.
    pub(crate) operator: Routes,
}

impl HttpService {
    /// Creates the service. Scripts of pages from `web_origins` may call it through gRPC-Web.
    pub(crate) fn new(
        grpc: GrpcService,
        web_origins: &[String],
        sites: Sites,
    ) -> anyhow::Result<Self> {
        Ok(Self { grpc_web: grpc_web::layer(grpc.clone(), web_origins)?, grpc, sites })
    }

    /// The server stack.
    pub(crate) fn stack(&self) -> &Stack {
        &self.grpc.stack
    }
}

impl Service<Request<Body>> for HttpService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if grpc_web::matches(&request) {
            return Box::pin(self.grpc_web.call(request));
        }
        if !is_operator(&request) && self.sites.matches(&request) {
            let limits = self.stack().limits();
            let address = origin::address(&request, limits.proxies());
            let response = self.sites.clone().serve(request, address, limits.clone());
            return Box::pin(async { Ok(response.await) });
        }
        self.grpc.call(request)
    }
}

/// True if a request is for health or reflection.
fn is_operator(request: &Request<Body>) -> bool {
    request.uri().path().starts_with("/grpc.")
}

impl Service<Request<Body>> for GrpcService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let end = request.extensions().get::<StreamEnd>().cloned().unwrap_or_default();
        let response = if is_operator(&request) {
            let address = origin::address(&request, self.stack.limits().proxies());
            Box::pin(self.clone().serve_operator(request, address))
        } else {
            self.stack.call(request)
        };
        Box::pin(async { Ok(response.await?.map(|body| Body::new(ExpiringBody::new(body, end)))) })
    }
}

impl GrpcService {
    /// Serves health and reflection. Health checks are answered at any load; streams, which stay open, are
    /// limited by address.
    async fn serve_operator(
        mut self,
        request: Request<Body>,
        address: String,
    ) -> Result<Response<Body>, Infallible> {
        let limits = self.stack.limits().clone();
        let path = request.uri().path();
        if ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List"].contains(&path) {
            let (parts, body) = request.into_parts();
            let deadline = Instant::now() + OPERATOR_RECEIVE_MAX;
            let body = limits.receive(body, OPERATOR_BYTES_MAX, deadline, &address).await;
            let Ok(body) = body else {
                let message =
                    "the request was not complete in time, or is too large; send it again";
                return Ok(Status::cancelled(message).into_http());
            };
            let request = Request::from_parts(parts, Body::new(Full::new(body.bytes)));
            return self.operator.call(request).await;
        }
        match limits.open_operator_call(&address) {
            Ok(reservation) => {
                let response = self.operator.call(request).await;
                response
                    .map(|it| it.map(|body| Body::new(GuardedBody { body, _guard: reservation })))
            }
            Err(refusal) => Ok(refusal.into_http()),
        }
    }
}

/// A body with a guard, which is dropped when the body has been sent or the client has disconnected.
pub(crate) struct GuardedBody<T> {
    pub(crate) body: Body,
    pub(crate) _guard: T,
}

impl<T: Unpin> http_body::Body for GuardedBody<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The graceful shutdown.
pub(crate) struct Drain {
    /// Cancelled when the drain starts.
    pub(crate) started: CancellationToken,
    /// Time-out for the calls in flight.
    pub(crate) timeout: Duration,
}

/// Serves until `stop`, then drains: waits for the calls in flight, at most the time-out. Returns the value
/// of `stop`.
pub(crate) async fn serve<T>(
    acceptor: Acceptor,
    listener: TcpListener,
    mut health: Health,
    stop: impl Future<Output = T>,
    drain: Drain,
) -> Option<T> {
    let mut serving = Box::pin(acceptor.serve(listener, drain.started.clone()));
    let stopped = tokio::select! {
        () = &mut serving => return None,
        () = health.watch() => return None,
        value = stop => value,
    };
    tracing::info!("draining");
    health.set_draining().await;
    drain.started.cancel();
    if tokio::time::timeout(drain.timeout, serving).await.is_err() {
        tracing::warn!("connections were still open at the end of the drain");
    }
    Some(stopped)
}
