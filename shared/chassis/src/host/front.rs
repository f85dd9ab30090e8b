//! The listener: what people call goes through the stack, what operators live on goes around it.

use std::{
    convert::Infallible,
    future::Future,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    server::NamedService,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Service;

use crate::{
    server::{Stack, origin},
    web::Sites,
};

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
    type Future = futures::future::BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path().starts_with("/grpc.") {
            let answer = self.operator.call(request);
            return Box::pin(answer);
        }
        if self.sites.take(&request) {
            let address = origin::address(&request, self.stack.proxies());
            let answer = self.sites.clone().serve(request, address);
            return Box::pin(async { Ok(answer.await) });
        }
        self.stack.call(request)
    }
}

impl NamedService for Front {
    const NAME: &'static str = "";
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
    server: Server,
    front: Front,
    listener: TcpListener,
    mut health: Health,
    stop: impl Future<Output = T>,
    drain: Drain,
) -> anyhow::Result<Option<T>> {
    let draining = drain.begun;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving =
        server.serve_with_incoming_shutdown(front, incoming, draining.clone().cancelled_owned());
    tokio::pin!(serving);
    let answer = tokio::select! {
        done = &mut serving => {
            done?;
            return Ok(None);
        }
        answer = stop => answer,
    };
    tracing::info!("draining");
    health.draining().await;
    draining.cancel();
    // An idle connection that never said a word would hold it for ever (hyper issue 4170).
    let Ok(done) = tokio::time::timeout(drain.patience, serving).await else {
        tracing::warn!("connections were still open at the end of the drain");
        return Ok(Some(answer));
    };
    done?;
    Ok(Some(answer))
}
