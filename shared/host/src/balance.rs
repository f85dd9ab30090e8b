//! Channel to a service in another process, balanced over its replicas.
//!
//! | step | by |
//! |---|---|
//! | addresses of the name, connections | [`Replicas`] |
//! | choice of a replica by latency and calls in flight (peak EWMA) | `tower::balance` |
//! | further attempts on another replica: of reads, and of calls that were not processed | `tower::retry` |

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use chassis::{channel::RemoteService, rule::Rules, server::deadline};
use futures::{StreamExt, future::BoxFuture, stream};
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, ConnectError, Status, TimeoutExpired, body::Body};
use tower::{
    BoxError, Service, ServiceExt,
    balance::p2c::Balance,
    buffer::Buffer,
    load::{CompleteOnResponse, PeakEwmaDiscover},
    retry::{Policy, Retry},
    util::BoxCloneSyncService,
};

use crate::{
    replicas::{Addresses, Availability, Replicas, has_cause},
    tls::Tls,
};

/// Latency assumed for a new replica.
const NEW_REPLICA_LATENCY: Duration = Duration::from_millis(20);
/// Time in which a high latency is forgotten (exponential decay). A replica that exceeded a deadline gets few
/// calls for some of these periods.
const LATENCY_DECAY: Duration = Duration::from_secs(10);
/// Calls that wait for the choice of a replica.
const QUEUE_MAX: usize = 1024;
/// Attempts of a call. Of two further ones, the first can fail because the other replica has closed its idle
/// connection.
const ATTEMPTS_MAX: u32 = 3;
/// Time-out of the first attempt of a read; at most half of the remaining time.
const FIRST_ATTEMPT_MAX: Duration = Duration::from_secs(2);

/// An attempt to call a replica, kept in the extensions of its request.
#[derive(Clone, Copy)]
struct Attempt {
    /// Deadline of the call.
    deadline: Option<Instant>,
    /// True if the call changes nothing and is answered at once, so that it can be repeated.
    is_repeatable: bool,
    /// 1 for the first one.
    number: u32,
}

impl Attempt {
    /// Time-out of this attempt, if another one may follow.
    fn timeout(&self) -> Option<Duration> {
        if !self.is_repeatable || self.number > 1 {
            return None;
        }
        let half = self.deadline.map(|it| it.saturating_duration_since(Instant::now()) / 2);
        Some(half.unwrap_or(FIRST_ATTEMPT_MAX).min(FIRST_ATTEMPT_MAX))
    }
}

/// Returns a channel to the replicas of a service: all addresses of its URLs, which have commas between them.
/// `rules` say which methods are reads. Its connections end
/// with its last clone.
pub fn channel(urls: &str, tls: &Tls, rules: &Rules) -> Result<RemoteService> {
    let (task, changes, availability) = Replicas::start(Addresses::new(urls, tls.clone())?);
    #[expect(clippy::disallowed_methods, reason = "aborted with the last clone of the channel")]
    let task = AbortOnDropHandle::new(tokio::spawn(task));
    let changes = stream::unfold(changes, async |mut it| Some((it.recv().await?, it))).boxed();
    let discover = PeakEwmaDiscover::new::<Request<Bytes>>(
        changes,
        NEW_REPLICA_LATENCY,
        LATENCY_DECAY,
        CompleteOnResponse::default(),
    );
    let balanced = Buffer::new(Balance::new(discover), QUEUE_MAX);
    let attempts = Retry::new(FurtherAttempts, Attempts(BoxCloneSyncService::new(balanced)));
    Ok(BoxCloneSyncService::new(BalancedChannel {
        attempts: BoxCloneSyncService::new(attempts),
        availability,
        rules: rules.clone(),
        _task: Arc::new(task),
    }))
}

type Replies = BoxFuture<'static, Result<Response<Body>, BoxError>>;

/// Channel to the replicas of a service.
#[derive(Clone)]
struct BalancedChannel {
    attempts: BoxCloneSyncService<Request<Bytes>, Response<Body>, BoxError>,
    availability: watch::Receiver<Availability>,
    rules: Rules,
    /// The task that maintains the connections.
    _task: Arc<AbortOnDropHandle<()>>,
}

impl Service<Request<Body>> for BalancedChannel {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Replies;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let rule = self.rules.get(request.uri().path());
        let is_repeatable = rule.is_some_and(|it| it.read && !it.long_poll);
        let channel = self.clone();
        Box::pin(async move {
            let deadline = deadline::requested(request.headers()).map(|it| Instant::now() + it);
            wait_until_connected(channel.availability).await?;
            let (mut parts, body) = request.into_parts();
            // Complete, so that it can be sent again; no method between services has a stream of requests.
            let body = body.collect().await?.to_bytes();
            parts.extensions.insert(Attempt { deadline, is_repeatable, number: 1 });
            channel.attempts.oneshot(Request::from_parts(parts, body)).await
        })
    }
}

/// Sends each attempt with its remaining time.
#[derive(Clone)]
struct Attempts(BoxCloneSyncService<Request<Bytes>, Response<Body>, BoxError>);

impl Service<Request<Bytes>> for Attempts {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Replies;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Bytes>) -> Self::Future {
        let attempt = request.extensions().get::<Attempt>().copied();
        if let Some(deadline) = attempt.and_then(|it| it.deadline) {
            request.headers_mut().insert("grpc-timeout", remaining_time(deadline));
        }
        let response = self.0.clone().oneshot(request);
        match attempt.and_then(|it| it.timeout()) {
            None => Box::pin(response),
            Some(max) => Box::pin(async move {
                let response = tokio::time::timeout(max, response).await;
                response.unwrap_or_else(|_| Err(TimeoutExpired(()).into()))
            }),
        }
    }
}

/// Waits for the first connection; fails while no replica can be reached.
async fn wait_until_connected(
    mut availability: watch::Receiver<Availability>,
) -> Result<(), BoxError> {
    let known = availability.wait_for(|it| *it != Availability::Connecting).await?;
    match &*known {
        Availability::Unreachable(cause) => Err(ConnectError(cause.clone().into()).into()),
        Availability::Connected | Availability::Connecting => Ok(()),
    }
}

/// Returns the time until a deadline as a `grpc-timeout`.
fn remaining_time(deadline: Instant) -> HeaderValue {
    let remaining = deadline.saturating_duration_since(Instant::now());
    let ms = remaining.as_millis().min(99_999_999);
    HeaderValue::from_str(&format!("{ms}m")).expect("digits are valid in a header")
}

/// Repeats a read that failed or was not answered in time, and any call that was not processed.
#[derive(Clone, Copy)]
struct FurtherAttempts;

impl Policy<Request<Bytes>, Response<Body>, BoxError> for FurtherAttempts {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        request: &mut Request<Bytes>,
        result: &mut Result<Response<Body>, BoxError>,
    ) -> Option<Self::Future> {
        let attempt = request.extensions_mut().get_mut::<Attempt>()?;
        let may_repeat = match result {
            Ok(response) => {
                let status = Status::from_header_map(response.headers());
                attempt.is_repeatable && status.is_some_and(|it| it.code() == Code::Unavailable)
            }
            Err(error) => attempt.is_repeatable || was_not_processed(&**error),
        };
        attempt.number += 1;
        (may_repeat && attempt.number <= ATTEMPTS_MAX).then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<Bytes>) -> Option<Request<Bytes>> {
        Some(request.clone())
    }
}

/// True if no replica has processed a call: there was no connection, the connection was closed before the
/// call was sent, or the replica refused the stream of the call while it closed the connection (RFC 9113, 6.8
/// and 8.7).
fn was_not_processed(error: &(dyn std::error::Error + 'static)) -> bool {
    let is_refused = |it: &(dyn std::error::Error + 'static)| {
        let is_canceled = it.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
        is_canceled || it.downcast_ref::<h2::Error>().is_some_and(is_refused_stream)
    };
    has_cause::<ConnectError>(error)
        || std::iter::successors(Some(error), |it| it.source()).any(is_refused)
}

/// True for the error of a stream above the last one that a closing peer processes, and of one that it
/// refused.
fn is_refused_stream(error: &h2::Error) -> bool {
    let is_closing = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (is_closing || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}
