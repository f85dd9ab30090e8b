//! Events through NATS JetStream. The outbox stays the truth: a stream that was lost is published anew,
//! and what arrives twice acts once.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail};
use async_nats::jetstream::{
    self, AckKind,
    consumer::{AckPolicy, PullConsumer, pull},
    stream::{self, DiscardPolicy, StorageType},
};
use futures::{StreamExt, future::BoxFuture};
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{BATCH_LEN, IDLE, POLL, follow, relay::Relay, settle::Followers};
use crate::{
    db::Db,
    outbox::Delivery,
    react::{Delivered, Subscriber},
};

const STREAM: &str = "TENANTRY";

/// How long NATS may take to answer.
const REQUEST_MAX: Duration = Duration::from_secs(2);

/// How soon an event comes again that arrived before one that precedes it.
const HOLD: Duration = Duration::from_millis(500);

/// How long the stream keeps events: they hold names and addresses as they were written, and a person who was
/// erased must be gone from here, too. The outbox is what is relied on.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// The dedup window; the inbox holds longer.
const DUPLICATES: Duration = Duration::from_secs(120);

/// A connection to NATS.
#[derive(Clone)]
pub struct JetStream {
    pub(super) context: jetstream::Context,
    /// Where NATS is, without credentials.
    place: String,
}

impl JetStream {
    /// Connects, and goes on trying in the background if NATS is away: calls do not need it.
    pub async fn connect(url: &str, name: &str) -> anyhow::Result<Self> {
        let server = url.parse::<async_nats::ServerAddr>().context(
            "--nats-url is no address of a NATS server, for example nats://127.0.0.1:4222",
        )?;
        let mut options = async_nats::ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .event_callback(async |event| tracing::info!(%event, "nats"));
        if let (Some(user), Some(password)) = (server.username(), server.password()) {
            options = options.user_and_password(user.to_owned(), password.to_owned());
        }
        let client = options.connect(server).await.context("NATS")?;
        let mut context = jetstream::new(client);
        context.set_timeout(REQUEST_MAX);
        let place = url.rsplit('@').next().unwrap_or_default().to_owned();
        Ok(Self { context, place })
    }

    pub(super) async fn stream(&self) -> anyhow::Result<stream::Stream> {
        let version = self.context.client().server_info().version;
        if !version.is_empty() && before(&version, [2, 9, 0]) {
            bail!("nats-server {version} is too old: 2.9 or newer is needed");
        }
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["tenantry.>".to_owned()],
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            duplicate_window: DUPLICATES,
            max_age: KEPT,
            deny_delete: true,
            deny_purge: true,
            ..Default::default()
        };
        let stream = self.context.get_or_create_stream(config).await;
        stream.with_context(|| {
            format!(
                "NATS does not answer at {}, or has no JetStream (start nats-server with -js); calls go on, \
                 events wait",
                self.place
            )
        })
    }

    pub(super) fn tasks(
        self,
        outboxes: Vec<Db>,
        subscribers: Vec<Subscriber>,
        followers: &BTreeMap<&'static str, Followers>,
        stop: &CancellationToken,
    ) -> Vec<BoxFuture<'static, ()>> {
        let version = self.context.client().server_info().version;
        if !version.is_empty() && before(&version, [2, 12, 7]) {
            tracing::warn!(version, "use nats-server 2.12.7 or newer in production");
        }
        let mut tasks: Vec<BoxFuture<'static, ()>> = vec![];
        for outbox in outboxes {
            let followers = followers[outbox.name()].clone();
            let relay = Relay::new(self.clone(), outbox.clone(), followers);
            let (name, stop) = (format!("the relay of {}", outbox.name()), stop.clone());
            let wake = (outbox, IDLE);
            tasks.push(Box::pin(async move { follow(name, stop, wake, || relay.step()).await }));
        }
        for to in subscribers {
            tasks.push(Box::pin(to.clone().retry_deferred(stop.clone())));
            let puller = Puller { nats: self.clone(), to: to.clone(), consumer: Mutex::default() };
            let (name, stop) = (format!("the consumer of {}", to.db.name()), stop.clone());
            tasks.push(Box::pin(async move {
                follow(name, stop, (to.db, POLL), || puller.step()).await;
            }));
        }
        tasks
    }
}

/// Pulls events for one subscriber.
struct Puller {
    nats: JetStream,
    to: Subscriber,
    consumer: Mutex<Option<PullConsumer>>,
}

impl Puller {
    async fn step(&self) -> anyhow::Result<bool> {
        let mut held = self.consumer.lock().await;
        let consumer = match held.take() {
            Some(it) => it,
            None => self.consumer().await?,
        };
        let (mut messages, mut batch) = (vec![], vec![]);
        let pull = consumer.fetch().max_messages(BATCH_LEN).messages();
        let mut pulled = timeout(REQUEST_MAX, pull).await??;
        // A request that was under way when the server went is never answered.
        while let Some(message) = timeout(REQUEST_MAX, pulled.next()).await? {
            let message = message.map_err(|error| anyhow::anyhow!(error))?;
            batch.push(Delivery::of(publisher(&message.subject), message.payload.to_vec()));
            messages.push(message);
        }
        if !self.to.db.guards().late_acks {
            for message in &messages {
                message.ack().await.map_err(|error| anyhow::anyhow!(error))?;
            }
        }
        let Delivered { done, held: again, failure } = self.to.deliver(&batch).await;
        for (event, message) in batch[..done].iter().zip(&messages) {
            // Only after the commit. Not confirmed: what is delivered again acts once.
            let is_held = again.contains(&event.id);
            let answer = if is_held { AckKind::Nak(Some(HOLD)) } else { AckKind::Ack };
            message.ack_with(answer).await.map_err(|error| anyhow::anyhow!(error))?;
        }
        if let Some(error) = failure {
            // In its order: all of the rest comes again, before anything newer.
            for message in &messages[done..] {
                let again = message.ack_with(AckKind::Nak(None)).await;
                again.map_err(|error| anyhow::anyhow!(error))?;
            }
            return Err(anyhow::Error::from(error).context("a batch was not taken"));
        }
        *held = Some(consumer);
        Ok(!batch.is_empty())
    }

    async fn consumer(&self) -> anyhow::Result<PullConsumer> {
        let name = self.to.db.name().to_uppercase();
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

/// The service that published on a subject, `tenantry.<service>.…`: NATS lets each service publish on its own
/// subjects only, if it runs with the permissions of `deploy/nats.conf`.
fn publisher(subject: &str) -> &str {
    subject.split('.').nth(1).unwrap_or_default()
}

/// Whether a server version is older than `floor`.
fn before(version: &str, floor: [u32; 3]) -> bool {
    let number =
        |it: &str| it.split(|c: char| !c.is_ascii_digit()).next().and_then(|it| it.parse().ok());
    let parts: Vec<u32> = version.split('.').map(|it| number(it).unwrap_or(0)).collect();
    parts.as_slice() < floor.as_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(before("2.9.10", [2, 12, 7]));
        assert!(!before("2.15.1", [2, 12, 7]));
        assert!(!before("2.12.7-beta", [2, 12, 7]));
    }
}
