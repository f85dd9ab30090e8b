//! Connections: so many at once, TLS, HTTP, and the time-outs of those that are of no use.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::Service;

use super::front::{Front, Holding};
use crate::{server::Connection, tls};

/// Longest TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Longest arrival of the head of an HTTP/1 request.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Longest time before the first request of a connection.
const FIRST_REQUEST_MAX: Duration = Duration::from_secs(20);
/// Longest time between two requests of a connection.
const IDLE_MAX: Duration = Duration::from_secs(5 * 60);
/// Age at which a connection is closed, so that clients spread over replicas that are new.
const AGE_MAX: Duration = Duration::from_secs(30 * 60);
/// Time that the requests of a connection get to end when it is closed.
const GRACE: Duration = Duration::from_secs(60);
/// A pause after a connection could not be accepted: there are no file descriptors left, for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The streams of one connection.
const STREAMS_MAX: u32 = 256;

/// Accepts and serves connections.
#[derive(Clone)]
pub(super) struct Acceptor {
    front: Front,
    tls: Option<TlsAcceptor>,
    http: Builder<TokioExecutor>,
}

impl Acceptor {
    pub(super) fn new(front: Front, tls: Option<Arc<ServerConfig>>) -> Self {
        let mut http = Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .keep_alive_timeout(Duration::from_secs(10))
            .max_pending_accept_reset_streams(Some(20))
            .max_header_list_size(8 * 1024)
            .max_concurrent_streams(STREAMS_MAX);
        Self { front, tls: tls.map(TlsAcceptor::from), http }
    }

    /// Accepts connections until `draining`, then waits for the end of those that are open.
    pub(super) async fn serve(self, listener: TcpListener, draining: CancellationToken) {
        let open = TaskTracker::new();
        while let Some(accepted) = draining.run_until_cancelled(listener.accept()).await {
            let (stream, address) = match accepted {
                Ok(it) => it,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match self.front.stack.limits().connect(address.ip()) {
                Ok(share) => {
                    let serving = self.clone().connection(stream, address, draining.clone());
                    open.spawn(async move {
                        serving.await;
                        drop(share);
                    });
                }
                // Dropped, which closes it.
                Err(limit) => tracing::debug!(%address, ?limit, "a connection too many"),
            }
        }
        drop(listener);
        open.close();
        open.wait().await;
    }

    async fn connection(self, stream: TcpStream, address: SocketAddr, draining: CancellationToken) {
        // Without it small answers would wait for acknowledgements.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            let connection = Connection { address, service: None };
            return self.http(stream, connection, draining).await;
        };
        match timeout(HANDSHAKE_MAX, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let service = certificates.and_then(<[_]>::first).and_then(tls::service_name);
                self.http(stream, Connection { address, service }, draining).await;
            }
            Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
        }
    }

    async fn http<S>(&self, stream: S, connection: Connection, draining: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (activity, front) = (Activity::new(), self.front.clone());
        let address = connection.address;
        let of_requests = activity.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(connection.clone());
            let (active, answer) = (of_requests.begin(), front.clone().call(request));
            async move {
                // Active as long as the answer is being sent.
                answer.await.map(|it| it.map(|body| Holding { body, _held: active }))
            }
        });
        let serving = self.http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(serving);
        let old = Instant::now() + AGE_MAX;
        let mut closed_at: Option<Instant> = None;
        loop {
            let look = closed_at.unwrap_or_else(|| activity.idle_at().min(old));
            tokio::select! {
                ended = &mut serving => {
                    if let Err(error) = ended {
                        tracing::debug!(%address, %error, "a connection failed");
                    }
                    return;
                }
                () = draining.cancelled(), if closed_at.is_none() => {
                    serving.as_mut().graceful_shutdown();
                    // The drain has a time-out of its own.
                    closed_at = Some(Instant::now() + AGE_MAX);
                }
                () = sleep_until(look) => {
                    if closed_at.is_some() {
                        return;
                    }
                    let now = Instant::now();
                    if activity.idle_at() <= now || old <= now {
                        serving.as_mut().graceful_shutdown();
                        closed_at = Some(now + if activity.is_used() { GRACE } else { HEAD_MAX / 2 });
                    }
                }
            }
        }
    }
}

/// Requests of a connection.
#[derive(Clone)]
struct Activity(Arc<Requests>);

struct Requests {
    used: AtomicBool,
    state: Mutex<(usize, Instant)>,
}

/// A request that is being answered.
struct Active(Activity);

impl Activity {
    fn new() -> Self {
        let state = Mutex::new((0, Instant::now()));
        Self(Arc::new(Requests { used: AtomicBool::new(false), state }))
    }

    fn begin(&self) -> Active {
        self.0.used.store(true, Ordering::Relaxed);
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        Active(self.clone())
    }

    fn is_used(&self) -> bool {
        self.0.used.load(Ordering::Relaxed)
    }

    /// When the connection counts as idle, if no request comes before.
    fn idle_at(&self) -> Instant {
        let (active, since) = *self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.is_used(), active) {
            (false, _) => since + FIRST_REQUEST_MAX,
            (true, 0) => since + IDLE_MAX,
            (true, _) => Instant::now() + IDLE_MAX,
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut state = self.0.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (state.0 - 1, Instant::now());
    }
}
