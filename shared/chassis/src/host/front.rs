//! What a port serves: calls go through the server stack, pages to their sites, health and reflection around
//! both.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Service;

use super::connection::Acceptor;
use crate::{
    server::{Stack, origin},
    web::Sites,
};

/// The largest request to health or reflection that is read before it is answered.
const OPERATOR_BYTES_MAX: usize = 64 * 1024;
/// How long it may take to arrive.
const OPERATOR_ARRIVAL_MAX: Duration = Duration::from_secs(5);

/// The suite's services and, beside them, health and reflection.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) stack: Stack,
    /// Health and reflection belong to operators, who have no account.
    pub(super) operator: Routes,
    /// Pages for browsers.
    pub(super) sites: Sites,
}

impl Service<Request<Body>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let limits = self.stack.limits();
        if request.uri().path().starts_with("/grpc.") {
            let address = origin::address(&request, limits.proxies());
            return Box::pin(self.clone().operate(request, address));
        }
        if self.sites.take(&request) {
            let address = origin::address(&request, limits.proxies());
            let answer = self.sites.clone().serve(request, address, limits.clone());
            return Box::pin(async { Ok(answer.await) });
        }
        self.stack.call(request)
    }
}

impl Front {
    /// Health and reflection. A check of health is answered whatever else is going on; what may stay open is
    /// bounded by address.
    async fn operate(
        mut self,
        request: Request<Body>,
        address: String,
    ) -> Result<Response<Body>, Infallible> {
        let limits = self.stack.limits().clone();
        let path = request.uri().path();
        if ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List"].contains(&path) {
            let (parts, body) = request.into_parts();
            let deadline = Instant::now() + OPERATOR_ARRIVAL_MAX;
            let body = limits.receive(body, OPERATOR_BYTES_MAX, deadline, &address).await;
            let Ok(body) = body else {
                let message = "the request did not arrive in time, or is too large";
                return Ok(Status::cancelled(message).into_http());
            };
            let request = Request::from_parts(parts, Body::new(Full::new(body.bytes)));
            return self.operator.call(request).await;
        }
        match limits.open_operator_call(&address) {
            Ok(share) => {
                let answer = self.operator.call(request).await;
                answer.map(|it| it.map(|body| Body::new(Holding { body, _held: share })))
            }
            Err(refusal) => Ok(refusal.into_http()),
        }
    }
}

/// A body that holds something until it has been sent, or nobody wants it any more.
pub(super) struct Holding<T> {
    pub(super) body: Body,
    pub(super) _held: T,
}

impl<T: Unpin> http_body::Body for Holding<T> {
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

/// Health of every service in this process, and of the process itself.
pub(super) struct Health {
    pub(super) reporter: HealthReporter,
    pub(super) names: Vec<String>,
}

impl Health {
    pub(super) async fn serving(&self) {
        for name in &self.names {
            self.reporter.set_service_status(name.clone(), ServingStatus::Serving).await;
        }
    }

    /// Says `NOT_SERVING`, then ends the watches, which would hold the drain.
    async fn draining(&mut self) {
        for name in &self.names {
            self.reporter.set_service_status(name.clone(), ServingStatus::NotServing).await;
        }
        tokio::task::yield_now().await;
        for name in &self.names {
            self.reporter.clear_service_status(name).await;
        }
    }
}

/// How serving ends.
pub(super) struct Drain {
    /// Cancelled when it begins.
    pub(super) begun: CancellationToken,
    /// How long calls in flight get.
    pub(super) patience: Duration,
}

/// Serves until `stop`, then lets calls in flight end, for a while. Answers what `stop` answered.
pub(super) async fn serve<T>(
    acceptor: Acceptor,
    listener: TcpListener,
    mut health: Health,
    stop: impl Future<Output = T>,
    drain: Drain,
) -> Option<T> {
    let mut serving = Box::pin(acceptor.serve(listener, drain.begun.clone()));
    let answer = tokio::select! {
        () = &mut serving => return None,
        answer = stop => answer,
    };
    tracing::info!("draining");
    health.draining().await;
    drain.begun.cancel();
    if tokio::time::timeout(drain.patience, serving).await.is_err() {
        tracing::warn!("connections were still open at the end of the drain");
    }
    Some(answer)
}
