//! Delivery through NATS JetStream. The outboxes remain the source of truth: if the stream is lost, the
//! relays publish it again, and the inbox of each subscriber skips the events that it has handled.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use async_nats::{
    Event,
    connection::State,
    jetstream::{
        self, AckKind,
        consumer::{AckPolicy, PullConsumer, pull},
        stream::{self, DiscardPolicy, StorageType},
    },
};
use chassis::Db;
use futures::{StreamExt, future::BoxFuture};
use opentelemetry::{KeyValue, global, metrics::Gauge};
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use worker::{Progress, Schedule};

use crate::{
    BATCH_LEN, IDLE, POLL,
    cursor::ReaderPositions,
    delivery::Delivery,
    nats_url::NatsUrl,
    relay::Relay,
    subscriber::{BatchOutcome, Subscriber},
};

/// Name of the stream.
pub(super) const STREAM: &str = "TENANTRY";

/// Time-out of a request to NATS.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Delay of the redelivery of an event that arrived before its predecessor.
const OUT_OF_ORDER_DELAY: Duration = Duration::from_millis(500);

/// Pause before events that arrived early are tried again: another replica records their predecessors.
const EARLY_PAUSE: Duration = Duration::from_millis(10);

/// Attempts without progress after which such events are redelivered.
const EARLY_ATTEMPTS: u32 = 30;

/// Age at which the stream drops events. They contain unencrypted names and e-mail addresses, so those of an
/// erased person must not stay.
const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Time in which JetStream drops duplicates. The inbox of a subscriber finds later ones.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// A connection to NATS.
#[derive(Clone)]
pub struct JetStream {
    pub(super) context: jetstream::Context,
    /// Addresses of the servers, without credentials.
    address: String,
    /// Smallest number of nodes that store each event.
    stream_replicas: usize,
    last_error: LastError,
}

/// Last error of the connection, for messages. Clones share it.
#[derive(Clone, Default)]
struct LastError(Arc<std::sync::Mutex<Option<String>>>);

impl LastError {
    fn record(&self, event: &Event) {
        let error = match event {
            Event::ServerError(error) => Some(error.to_string()),
            Event::ClientError(error) => Some(error.to_string()),
            Event::Connected => None,
            _ => return,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl JetStream {
    /// Connects to a server or a cluster. If it does not respond, retries in the background, because calls do
    /// not need it. `stream_replicas`: number of nodes that store each event.
    pub async fn connect(url: &str, name: &str, stream_replicas: usize) -> anyhow::Result<Self> {
        let url = NatsUrl::parse(url)?;
        let last_error = LastError::default();
        let recorded = last_error.clone();
        let options = async_nats::ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .event_callback(move |event| {
                recorded.record(&event);
                async move { tracing::info!(%event, "nats") }
            });
        let client = url.authenticate(options).connect(&url.servers[..]).await;
        let client = client.context("cannot set up the connection to NATS")?;
        let mut context = jetstream::new(client);
        context.set_timeout(REQUEST_TIMEOUT);
        Ok(Self { context, address: url.addresses(), stream_replicas, last_error })
    }

    /// Returns the stream. Creates it if it is missing, and adds missing replicas to it.
    pub(super) async fn stream(&self) -> anyhow::Result<stream::Stream> {
        require_version(&self.context.client().server_info().version)?;
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["tenantry.>".to_owned()],
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            duplicate_window: DUPLICATE_WINDOW,
            max_age: RETENTION,
            deny_delete: true,
            deny_purge: true,
            num_replicas: self.stream_replicas,
            ..Default::default()
        };
        let stream = self.context.get_or_create_stream(config).await;
        let stream = stream.with_context(|| self.describe_failure())?;
        let stored = &stream.cached_info().config;
        if stored.num_replicas < self.stream_replicas {
            let replicated =
                stream::Config { num_replicas: self.stream_replicas, ..stored.clone() };
            let updated = self.context.update_stream(replicated).await;
            updated.context(
                "the stream of events does not get the replicas of --nats-stream-replicas",
            )?;
        }
        Ok(stream)
    }

    /// Returns the reason for which JetStream cannot be used, and the remedy.
    fn describe_failure(&self) -> String {
        let address = &self.address;
        let cause = match (self.context.client().connection_state(), self.last_error.get()) {
            (State::Connected, _) => format!(
                "NATS at {address} has no JetStream (start nats-server with -js), or the user of --nats-url \
                 may not use it"
            ),
            (_, Some(error)) => {
                format!("NATS at {address} refuses the connection ({error}); check --nats-url")
            }
            (_, None) => format!("NATS does not respond at {address}; check --nats-url"),
        };
        format!("{cause}; calls continue, events are delivered later")
    }

    /// Returns the tasks of the relays and the consumers.
    pub(super) fn tasks(
        self,
        outboxes: Vec<Db>,
        subscribers: Vec<Subscriber>,
        positions: &BTreeMap<&'static str, ReaderPositions>,
        stop: &CancellationToken,
    ) -> Vec<BoxFuture<'static, ()>> {
        let version = self.context.client().server_info().version;
        if !version.is_empty() && is_older(&version, [2, 12, 7]) {
            tracing::warn!(
                version,
                "this nats-server is older than recommended; use 2.12.7 or newer in production"
            );
        }
        let mut tasks: Vec<BoxFuture<'static, ()>> = vec![];
        for outbox in outboxes {
            let positions = positions[outbox.name()].clone();
            let relay = Relay::new(self.clone(), outbox.clone(), positions);
            let name = format!("relay of {}", outbox.name());
            let stop = stop.clone();
            let schedule = Schedule::woken_by(&outbox, IDLE);
            tasks.push(Box::pin(async move {
                worker::run(name, schedule, stop, || relay.step()).await;
            }));
        }
        for subscriber in subscribers {
            tasks.push(Box::pin(subscriber.clone().retry_deferred(stop.clone())));
            let db = subscriber.db.clone();
            let lag = global::meter("tenantry").u64_gauge("tenantry.consumer.pending").build();
            let consumer = Consumer { nats: self.clone(), subscriber, pull: Mutex::default(), lag };
            let name = format!("consumer of {}", db.name());
            let stop = stop.clone();
            tasks.push(Box::pin(async move {
                worker::run(name, Schedule::woken_by(&db, POLL), stop, || consumer.step()).await;
            }));
        }
        tasks
    }
}

/// Pulls events for one subscriber.
struct Consumer {
    nats: JetStream,
    subscriber: Subscriber,
    /// The durable consumer; `None` at the start and after a failure.
    pull: Mutex<Option<PullConsumer>>,
    /// Number of messages in the stream that the service has not received.
    lag: Gauge<u64>,
}

impl Consumer {
    /// Pulls a batch, delivers it and acknowledges it.
    async fn step(&self) -> anyhow::Result<Progress> {
        if self.subscriber.is_paused().await? {
            // No message is pulled that would have the number; operators see the events wait.
            self.record_lag(self.durable_consumer().await?.cached_info().num_pending);
            return Ok(Progress::Idle);
        }
        let mut cached = self.pull.lock().await;
        let consumer = match cached.take() {
            Some(consumer) => consumer,
            None => self.durable_consumer().await?,
        };
        let mut messages = vec![];
        let mut batch = vec![];
        let pull = consumer.fetch().max_messages(BATCH_LEN).messages();
        let mut pulled = timeout(REQUEST_TIMEOUT, pull).await??;
        // The response of a request can be lost with the server.
        while let Some(message) = timeout(REQUEST_TIMEOUT, pulled.next()).await? {
            let message = message.map_err(|error| anyhow::anyhow!(error))?;
            batch.push(Delivery::of(publisher(&message.subject), message.payload.to_vec()));
            messages.push(message);
        }
        // The last message has the number of those after it.
        let last = messages.last().and_then(|it| it.info().ok());
        self.record_lag(last.map_or(0, |it| it.pending));
        if self.subscriber.db.faults().acknowledge_early {
            for message in &messages {
                message.ack().await.map_err(|error| anyhow::anyhow!(error))?;
            }
        }
        let BatchOutcome { completed, out_of_order, failure } =
            self.subscriber.deliver(&batch).await;
        let out_of_order = self.retry_early(&batch, out_of_order).await;
        for (event, message) in batch[..completed].iter().zip(&messages) {
            // After the commit. A lost acknowledgement causes a redelivery, which the inbox skips.
            let ack = if out_of_order.contains(&event.id) {
                AckKind::Nak(Some(OUT_OF_ORDER_DELAY))
            } else {
                AckKind::Ack
            };
            message.ack_with(ack).await.map_err(|error| anyhow::anyhow!(error))?;
        }
        if let Some(error) = failure {
            // The rest is redelivered in its order, before newer events.
            for message in &messages[completed..] {
                let nak = message.ack_with(AckKind::Nak(None)).await;
                nak.map_err(|error| anyhow::anyhow!(error))?;
            }
            return Err(anyhow::Error::from(error).context("a batch was not handled"));
        }
        *cached = Some(consumer);
        Ok(Progress::busy_if(!batch.is_empty()))
    }

    /// Delivers events again that arrived before their predecessors, which another replica has pulled. If
    /// both gave them back, each would get parts of what the other one needs. Returns the ids of those that
    /// are still early.
    async fn retry_early(&self, batch: &[Delivery], mut early: Vec<Uuid>) -> Vec<Uuid> {
        let mut attempts = 0;
        while !early.is_empty() && attempts < EARLY_ATTEMPTS {
            tokio::time::sleep(EARLY_PAUSE).await;
            let events: Vec<_> =
                batch.iter().filter(|it| early.contains(&it.id)).cloned().collect();
            let outcome = self.subscriber.deliver(&events).await;
            if outcome.failure.is_some() {
                break;
            }
            attempts = if outcome.out_of_order.len() < early.len() { 0 } else { attempts + 1 };
            early = outcome.out_of_order;
        }
        early
    }

    /// Records the number of messages that the service has not received.
    fn record_lag(&self, pending: u64) {
        self.lag.record(pending, &[KeyValue::new("service", self.subscriber.db.name())]);
    }

    /// Returns the durable consumer of the subscriber, and creates it if it is missing.
    async fn durable_consumer(&self) -> anyhow::Result<PullConsumer> {
        let name = self.subscriber.db.name().to_uppercase();
        let config = pull::Config {
            durable_name: Some(name.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(30),
            max_deliver: -1,
            max_ack_pending: 1_000,
            ..Default::default()
        };
        let stream = self.nats.stream().await?;
        Ok(stream.get_or_create_consumer(&name, config).await?)
    }
}

/// Returns the service that published on a subject (`tenantry.<service>.…`). With the permissions in
/// `deploy/nats.conf` each service can publish on its own subjects only.
fn publisher(subject: &str) -> &str {
    subject.split('.').nth(1).unwrap_or_default()
}

/// Fails if a server is too old. The version is empty before the first connection.
pub(super) fn require_version(version: &str) -> anyhow::Result<()> {
    if !version.is_empty() && is_older(version, [2, 9, 0]) {
        bail!("nats-server {version} is too old; install 2.9 or newer");
    }
    Ok(())
}

/// True if a server version is older than `minimum`.
fn is_older(version: &str, minimum: [u32; 3]) -> bool {
    let number =
        |it: &str| it.split(|c: char| !c.is_ascii_digit()).next().and_then(|it| it.parse().ok());
    let parts: Vec<u32> = version.split('.').map(|it| number(it).unwrap_or(0)).collect();
    parts.as_slice() < minimum.as_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(is_older("2.9.10", [2, 12, 7]));
        assert!(!is_older("2.15.1", [2, 12, 7]));
        assert!(!is_older("2.12.7-beta", [2, 12, 7]));
    }
}
