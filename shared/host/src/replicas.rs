//! Connections to all replicas of a service. The addresses of its name are resolved again and again; the
//! balancer gets a replica when it is connected, and loses it when its connection fails.

use std::{
    collections::{HashMap, hash_map::Entry},
    convert::Infallible,
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use chassis::tls_connector;
use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use http_body_util::Full;
use rustls::pki_types::ServerName;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tonic::{
    TimeoutExpired,
    body::Body,
    transport::{self, Channel, Endpoint},
};
use tower::{Service, discover::Change};

use crate::tls::Tls;

/// Pause between two resolutions of the name.
const RESOLVE_PAUSE: Duration = Duration::from_secs(5);
/// Pause between two attempts to connect to an address.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Time-out of a connection with its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of HTTP/2 pings, also on idle connections.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Time-out of an HTTP/2 ping, after which the connection is closed.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Changes of the set of connected replicas, as the balancer reads them.
pub(crate) type Changes = mpsc::UnboundedReceiver<Result<Change<SocketAddr, Replica>, Infallible>>;

/// State of the connections to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    /// The first attempts to connect are running.
    Connecting,
    /// At least one replica is connected.
    Connected,
    /// No replica is connected; the cause of the last failure.
    Unreachable(String),
}

/// URLs and TLS configuration of a service.
#[derive(Clone)]
pub(crate) struct Addresses {
    uris: Vec<Uri>,
    tls: Tls,
}

/// Address of one replica, and the URL that it was found by.
#[derive(Clone)]
struct Found {
    address: SocketAddr,
    uri: Uri,
}

impl Addresses {
    /// Parses URLs with commas between them. Every address of their host names is a replica.
    pub(crate) fn new(urls: &str, tls: Tls) -> anyhow::Result<Self> {
        let parse = |url: &str| {
            let uri = url.trim().parse::<Uri>().ok().filter(|it| it.host().is_some());
            uri.with_context(|| {
                format!("{url} is not a valid URL; use for example https://identity:50051")
            })
        };
        Ok(Self { uris: urls.split(',').map(parse).collect::<anyhow::Result<_>>()?, tls })
    }

    /// Resolves all host names; fails if one cannot be resolved.
    async fn resolve(&self) -> std::io::Result<Vec<Found>> {
        let mut found = vec![];
        for uri in &self.uris {
            let port = uri.port_u16().unwrap_or(443);
            let addresses = tokio::net::lookup_host((host(uri), port)).await?;
            found.extend(addresses.map(|address| Found { address, uri: uri.clone() }));
        }
        Ok(found)
    }

    /// Connects to one replica. Its certificate must have the host name of the URL.
    async fn connect(&self, replica: &Found) -> anyhow::Result<Channel> {
        let name = ServerName::try_from(host(&replica.uri))?.to_owned();
        let tls = self.tls.clone();
        let connector = tls_connector::connector(name, move || Ok(tls.client()));
        let channel = Endpoint::from_shared(format!("http://{}", replica.address))?
            .origin(replica.uri.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await?;
        Ok(channel)
    }
}

fn host(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_matches(['[', ']'])
}

/// A connected replica.
pub(crate) struct Replica {
    channel: Channel,
    connection: ConnectionId,
    lost: mpsc::UnboundedSender<ConnectionId>,
}

/// One of the successive connections to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ConnectionId {
    address: SocketAddr,
    number: u64,
}

impl Service<Request<Bytes>> for Replica {
    type Response = Response<Body>;
    type Error = transport::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, transport::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), transport::Error>> {
        self.channel.poll_ready(cx).map_err(|error| {
            let _ = self.lost.send(self.connection);
            error
        })
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let response = self.channel.call(request.map(|it| Body::new(Full::new(it))));
        let (connection, lost) = (self.connection, self.lost.clone());
        Box::pin(async move {
            let response = response.await;
            // A call that exceeds its deadline says nothing about the connection; pings do.
            if response.as_ref().is_err_and(|it| !has_cause::<TimeoutExpired>(it)) {
                let _ = lost.send(connection);
            }
            response
        })
    }
}

/// True if an error or one of its causes is a `T`.
pub(crate) fn has_cause<T: std::error::Error + 'static>(
    error: &(dyn std::error::Error + 'static),
) -> bool {
    std::iter::successors(Some(error), |it| it.source()).any(<dyn std::error::Error>::is::<T>)
}

/// State of the connection to one address.
enum State {
    /// The first attempt, or the first one after the loss of a connection.
    Connecting,
    /// This connection.
    Connected(ConnectionId),
    /// The last attempt failed; another one follows.
    Failed(String),
}

/// Result of a background job of [`Replicas`].
enum Event {
    Resolved(std::io::Result<Vec<Found>>),
    Connected(Found, anyhow::Result<Channel>),
}

/// Maintains the connections to a service.
pub(crate) struct Replicas {
    addresses: Addresses,
    states: HashMap<SocketAddr, (Found, State)>,
    jobs: JoinSet<Event>,
    connections: u64,
    changes: mpsc::UnboundedSender<Result<Change<SocketAddr, Replica>, Infallible>>,
    availability: watch::Sender<Availability>,
    lost: mpsc::UnboundedSender<ConnectionId>,
}

impl Replicas {
    /// Returns the task that maintains the connections until it is dropped, the changes, and the state.
    pub(crate) fn start(
        addresses: Addresses,
    ) -> (impl Future<Output = ()>, Changes, watch::Receiver<Availability>) {
        let (change_sender, changes) = mpsc::unbounded_channel();
        let (availability_sender, availability) = watch::channel(Availability::Connecting);
        let (lost_sender, lost) = mpsc::unbounded_channel();
        let replicas = Self {
            addresses,
            states: HashMap::new(),
            jobs: JoinSet::new(),
            connections: 0,
            changes: change_sender,
            availability: availability_sender,
            lost: lost_sender,
        };
        (replicas.run(lost), changes, availability)
    }

    async fn run(mut self, mut lost: mpsc::UnboundedReceiver<ConnectionId>) {
        self.resolve_after(Duration::ZERO);
        loop {
            tokio::select! {
                Some(connection) = lost.recv() => self.handle_lost(connection),
                Some(Ok(event)) = self.jobs.join_next() => match event {
                    Event::Resolved(Ok(found)) => self.replace_addresses(found),
                    Event::Resolved(Err(error)) => self.handle_unresolved(&error),
                    Event::Connected(replica, Ok(channel)) => self.insert(&replica, channel),
                    Event::Connected(replica, Err(error)) => self.handle_failed(replica, &error),
                },
            }
            if let Some(availability) = self.availability() {
                self.availability.send_replace(availability);
            }
        }
    }

    fn resolve_after(&mut self, pause: Duration) {
        let addresses = self.addresses.clone();
        self.jobs.spawn(async move {
            sleep(pause).await;
            Event::Resolved(addresses.resolve().await)
        });
    }

    fn connect_after(&mut self, replica: Found, pause: Duration) {
        let addresses = self.addresses.clone();
        self.jobs.spawn(async move {
            sleep(pause).await;
            let connected = addresses.connect(&replica).await;
            Event::Connected(replica, connected)
        });
    }

    /// Connects to new addresses and removes those that the names no longer have. Calls in flight continue.
    fn replace_addresses(&mut self, found: Vec<Found>) {
        self.resolve_after(RESOLVE_PAUSE);
        let is_found = |address: &SocketAddr| found.iter().any(|it| it.address == *address);
        let removed: Vec<_> = self.states.keys().filter(|it| !is_found(it)).copied().collect();
        for address in removed {
            if let Some((_, State::Connected(_))) = self.states.remove(&address) {
                let _ = self.changes.send(Ok(Change::Remove(address)));
            }
        }
        for replica in found {
            if let Entry::Vacant(entry) = self.states.entry(replica.address) {
                entry.insert((replica.clone(), State::Connecting));
                self.connect_after(replica, Duration::ZERO);
            }
        }
    }

    fn handle_unresolved(&mut self, error: &std::io::Error) {
        let names: Vec<_> = self.addresses.uris.iter().map(host).collect();
        let cause = format!("{} cannot be resolved: {error}", names.join(", "));
        tracing::debug!(cause, "the addresses of a service are unknown");
        if self.states.is_empty() {
            self.availability.send_replace(Availability::Unreachable(cause));
        }
        self.resolve_after(RECONNECT_PAUSE);
    }

    fn insert(&mut self, replica: &Found, channel: Channel) {
        let address = replica.address;
        let Some((_, state)) = self.states.get_mut(&address) else { return };
        self.connections += 1;
        let connection = ConnectionId { address, number: self.connections };
        *state = State::Connected(connection);
        let replica = Replica { channel, connection, lost: self.lost.clone() };
        let _ = self.changes.send(Ok(Change::Insert(address, replica)));
    }

    fn handle_failed(&mut self, replica: Found, error: &anyhow::Error) {
        let Some((_, state)) = self.states.get_mut(&replica.address) else { return };
        let cause = format!("{error:#}");
        tracing::debug!(address = %replica.address, cause, "a replica is not connected");
        *state = State::Failed(cause);
        self.connect_after(replica, RECONNECT_PAUSE);
    }

    fn handle_lost(&mut self, connection: ConnectionId) {
        let address = connection.address;
        let Some((replica, state)) = self.states.get_mut(&address) else { return };
        // Calls on an earlier connection fail, too.
        if !matches!(state, State::Connected(it) if *it == connection) {
            return;
        }
        *state = State::Connecting;
        let replica = replica.clone();
        tracing::warn!(uri = %replica.uri, %address, "the connection to a replica failed");
        let _ = self.changes.send(Ok(Change::Remove(address)));
        self.connect_after(replica, Duration::ZERO);
    }

    /// Returns the state of the connections; `None` while no address is known.
    fn availability(&self) -> Option<Availability> {
        let mut unreachable = None;
        let mut is_connecting = false;
        for (_, state) in self.states.values() {
            match state {
                State::Connected(_) => return Some(Availability::Connected),
                State::Connecting => is_connecting = true,
                State::Failed(cause) => unreachable = Some(cause),
            }
        }
        if is_connecting {
            return Some(Availability::Connecting);
        }
        unreachable.map(|cause| Availability::Unreachable(cause.clone()))
    }
}
