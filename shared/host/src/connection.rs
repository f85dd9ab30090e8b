//! Connections: limits, TLS, HTTP, and time-outs of idle and old connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chassis::server::Connection;
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::Service;

use crate::{
    listener::{GuardedBody, HttpService},
    stream_end::StreamEnd,
    tls::{self, Tls},
};

/// Time-out of receiving the headers of an HTTP/1 request.
const HEADERS_MAX: Duration = Duration::from_secs(10);
/// Time after which a connection without a request is closed.
const FIRST_REQUEST_MAX: Duration = Duration::from_secs(20);
/// Time for the requests in flight when a connection is closed, at most its largest age. Then its streams
/// end.
const GRACE: Duration = Duration::from_secs(60);
/// Time for sending the ends of streams, before the connection is closed.
const STREAM_END_MAX: Duration = Duration::from_secs(10);
/// Longest time for which a connection stays open after the start of the drain.
const DRAIN_MAX: Duration = Duration::from_secs(30 * 60);
/// Pause after a failed accept, for example because of too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Largest number of concurrent requests (HTTP/2 streams) of one connection.
const STREAMS_MAX: u32 = 256;

/// Accepts and serves connections.
#[derive(Clone)]
pub(crate) struct Acceptor {
    service: HttpService,
    tls: Option<Tls>,
    http: Builder<TokioExecutor>,
    lifetime: Lifetime,
}

/// Lifetime of connections.
#[derive(Clone, Copy)]
pub(crate) struct Lifetime {
    /// Time after the last request after which a connection is closed.
    pub(crate) idle_max: Duration,
    /// Age at which a connection is closed, so that clients connect to new replicas, too.
    pub(crate) age_max: Duration,
}

/// Graceful shutdown of a connection.
struct Shutdown {
    /// Time at which the open streams end.
    streams_end_at: Instant,
    /// Time at which the connection is closed.
    close_at: Instant,
}

impl Acceptor {
    /// Creates an acceptor; without `tls` connections are in plain text.
    pub(crate) fn new(service: HttpService, tls: Option<Tls>, lifetime: Lifetime) -> Self {
        let mut http = Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_MAX);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .keep_alive_timeout(Duration::from_secs(10))
            .max_pending_accept_reset_streams(Some(20))
            .max_header_list_size(8 * 1024)
            .max_concurrent_streams(STREAMS_MAX);
        Self { service, tls, http, lifetime }
    }

    /// Accepts connections until `draining`, then waits until all are closed.
    pub(crate) async fn serve(self, listener: TcpListener, draining: CancellationToken) {
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
            match self.service.stack().limits().connection(address.ip()) {
                Ok(reservation) => {
                    let serving = self.clone().connection(stream, address, draining.clone());
                    open.spawn(async move {
                        serving.await;
                        drop(reservation);
                    });
                }
                // The connection is dropped, which closes it.
                Err(limit) => {
                    tracing::debug!(%address, ?limit, "a connection was refused by a limit");
                }
            }
        }
        drop(listener);
        open.close();
        open.wait().await;
    }

    /// Serves one connection, after the TLS handshake if there is TLS.
    async fn connection(self, stream: TcpStream, address: SocketAddr, draining: CancellationToken) {
        // Small responses are sent without waiting for acknowledgements (Nagle's algorithm).
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            let connection = Connection { address, service: None };
            return self.http(stream, connection, draining).await;
        };
        let handshake = TlsAcceptor::from(tls.server()).accept(stream);
        match timeout(tls::HANDSHAKE_MAX, handshake).await {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let service = certificates.and_then(<[_]>::first).and_then(tls::service_name);
                self.http(stream, Connection { address, service }, draining).await;
            }
            Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
        }
    }

    /// Serves HTTP on a connection until it ends, is idle or too old, or the process drains.
    async fn http<S>(&self, stream: S, connection: Connection, draining: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let address = connection.address;
        let activity = Activity::new(self.lifetime.idle_max);
        let requests = activity.clone();
        let http_service = self.service.clone();
        let stream_end = StreamEnd::default();
        let end = stream_end.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(connection.clone());
            request.extensions_mut().insert(end.clone());
            let active = requests.start();
            let response = http_service.clone().call(request);
            async move {
                // The request is active until its response has been sent.
                response.await.map(|it| it.map(|body| GuardedBody { body, _guard: active }))
            }
        });
        let serving = self.http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(serving);
        let Lifetime { age_max, .. } = self.lifetime;
        let expires_at = Instant::now() + age_max;
        let mut shutdown: Option<Shutdown> = None;
        loop {
            let next_check = match &shutdown {
                None => activity.idle_at().min(expires_at),
                Some(it) if !stream_end.0.is_cancelled() => it.streams_end_at,
                Some(it) => it.close_at,
            };
            tokio::select! {
                ended = &mut serving => {
                    if let Err(error) = ended {
                        tracing::debug!(%address, %error, "a connection failed");
                    }
                    return;
                }
                () = draining.cancelled(), if shutdown.is_none() => {
                    serving.as_mut().graceful_shutdown();
                    // The drain has a time-out of its own, and its streams end with another status.
                    let never = Instant::now() + DRAIN_MAX;
                    shutdown = Some(Shutdown { streams_end_at: never, close_at: never });
                }
                () = sleep_until(next_check) => match &shutdown {
                    Some(_) if !stream_end.0.is_cancelled() => stream_end.0.cancel(),
                    Some(_) => return,
                    None => {
                        let now = Instant::now();
                        if activity.idle_at() <= now || expires_at <= now {
                            serving.as_mut().graceful_shutdown();
                            let grace =
                                if activity.has_served() { GRACE } else { HEADERS_MAX / 2 };
                            let streams_end_at = now + grace.min(age_max);
                            let close_at = streams_end_at + STREAM_END_MAX;
                            shutdown = Some(Shutdown { streams_end_at, close_at });
                        }
                    }
                }
            }
        }
    }
}

/// Activity of a connection.
#[derive(Clone)]
struct Activity(Arc<Requests>);

struct Requests {
    /// True after the first request.
    has_served: AtomicBool,
    state: Mutex<RequestState>,
    /// Time after the last request after which the connection is closed.
    idle_max: Duration,
}

struct RequestState {
    /// Number of requests in flight.
    active: usize,
    /// Time of the last end of a request; at first that of the connection.
    idle_since: Instant,
}

/// A request in flight.
struct Active(Activity);

impl Activity {
    fn new(idle_max: Duration) -> Self {
        let state = Mutex::new(RequestState { active: 0, idle_since: Instant::now() });
        Self(Arc::new(Requests { has_served: AtomicBool::new(false), state, idle_max }))
    }

    /// Starts a request.
    fn start(&self) -> Active {
        self.0.has_served.store(true, Ordering::Relaxed);
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).active += 1;
        Active(self.clone())
    }

    fn has_served(&self) -> bool {
        self.0.has_served.load(Ordering::Relaxed)
    }

    /// Returns the time at which the connection is idle, unless a request comes before.
    fn idle_at(&self) -> Instant {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.has_served() {
            state.idle_since + FIRST_REQUEST_MAX
        } else if state.active == 0 {
            state.idle_since + self.0.idle_max
        } else {
            Instant::now() + self.0.idle_max
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut state = self.0.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.active -= 1;
        state.idle_since = Instant::now();
    }
}
