//! A way to a service of the suite: inside this process, or over the network.

use std::{
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::{Status, body::Body, transport::Channel};
use tower::Service;

use crate::server::{Peer, Stack};

/// Where a service is. Known once every service of the process is installed.
pub(crate) enum Target {
    /// In this process: the same stack, without the network.
    Here(Stack),
    /// Elsewhere.
    There(Channel),
}

/// A way to a service, for the generated clients.
#[derive(Clone)]
pub struct Link {
    from: &'static str,
    to: Arc<OnceLock<Target>>,
}

impl Link {
    pub(crate) fn new(from: &'static str, to: Arc<OnceLock<Target>>) -> Self {
        Self { from, to }
    }
}

impl Service<Request<Body>> for Link {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.to.get() {
            None => Box::pin(async { Err(Status::unavailable("the suite is starting")) }),
            Some(Target::Here(stack)) => {
                request.extensions_mut().insert(Peer::Service(self.from.to_owned()));
                let answer = stack.clone().call(request);
                Box::pin(async { Ok(answer.await.unwrap_or_else(|never| match never {})) })
            }
            Some(Target::There(channel)) => {
                let mut channel = channel.clone();
                Box::pin(async move {
                    let unavailable = |error| Status::unavailable(format!("{error}"));
                    futures::future::poll_fn(|cx| channel.poll_ready(cx))
                        .await
                        .map_err(unavailable)?;
                    channel.call(request).await.map_err(unavailable)
                })
            }
        }
    }
}
