//! Events through NATS JetStream. The outbox stays the truth: a stream that was lost is published anew,
//! and what arrives twice acts once.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::{
    HeaderMap,
    jetstream::{
        self, AckKind,
        consumer::{AckPolicy, PullConsumer, pull},
        stream::{self, DiscardPolicy, StorageType},
    },
};
use futures::{StreamExt, future::BoxFuture};
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{BATCH, BATCH_LEN, back_off, follow};
use crate::{
    db::{Db, Tx},
    outbox::{self, Delivery},
    react::{ATTEMPTS_MAX, Subscriber},
};

const STREAM: &str = "TENANTRY";

/// How long NATS may take to answer.
const REQUEST_MAX: Duration = Duration::from_secs(2);

/// The dedup window; the inbox holds longer.
const DUPLICATES: Duration = Duration::from_secs(120);

/// A connection to NATS.
#[derive(Clone)]
pub struct JetStream {
    context: jetstream::Context,
}

impl JetStream {
    /// Connects, and goes on trying in the background if NATS is away: calls do not need it.
    pub async fn connect(url: &str, name: &str) -> anyhow::Result<Self> {
        let client = async_nats::ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .event_callback(async |event| tracing::info!(%event, "nats"))
            .connect(url)
            .await
            .with_context(|| format!("{url} is no address of a NATS server"))?;
        let mut context = jetstream::new(client);
        context.set_timeout(REQUEST_MAX);
        Ok(Self { context })
    }

    async fn stream(&self) -> anyhow::Result<stream::Stream> {
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
            deny_delete: true,
            deny_purge: true,
            ..Default::default()
        };
        let stream = self.context.get_or_create_stream(config).await;
        stream.context("no JetStream answer from NATS; start nats-server with -js")
    }

    pub(super) fn tasks(
        self,
        outboxes: Vec<Db>,
        subscribers: Vec<Subscriber>,
        stop: &CancellationToken,
    ) -> Vec<BoxFuture<'static, ()>> {
        let version = self.context.client().server_info().version;
        if !version.is_empty() && before(&version, [2, 12, 7]) {
            tracing::warn!(version, "use nats-server 2.12.7 or newer in production");
        }
        let mut tasks: Vec<BoxFuture<'static, ()>> = vec![];
        for outbox in outboxes {
            let (relay, stop) =
                (Relay { nats: self.clone(), outbox: outbox.clone() }, stop.clone());
            let name = format!("the relay of {}", outbox.name());
            tasks.push(Box::pin(async move { follow(name, stop, outbox, || relay.step()).await }));
        }
        for to in subscribers {
            let puller = Puller { nats: self.clone(), to: to.clone(), consumer: Mutex::default() };
            let (name, stop) = (format!("the consumer of {}", to.db.name()), stop.clone());
            tasks.push(Box::pin(async move { follow(name, stop, to.db, || puller.step()).await }));
        }
        tasks
    }
}

/// Publishes one outbox.
struct Relay {
    nats: JetStream,
    outbox: Db,
}

impl Relay {
    /// Publishes a batch and remembers it once NATS has it. Answers whether there may be more.
    async fn step(&self) -> anyhow::Result<bool> {
        let stream = self.nats.stream().await?;
        // A stream that was created anew has nothing of what an earlier one had: start over.
        let reader = format!("relay@{}", stream.cached_info().created.unix_timestamp_nanos());
        let work = async |tx: &mut Tx| {
            // One relay at a time, however many replicas there are.
            let alone = sqlx::query_scalar!(
                r#"select pg_try_advisory_xact_lock(hashtext(current_schema()), 1) as "alone!""#
            );
            if !alone.fetch_one(tx.conn()).await? {
                return Ok(false);
            }
            let from = outbox::load(tx.conn(), &reader, self.outbox.name()).await?;
            let (batch, cursor) = outbox::read(&self.outbox, from, BATCH).await?;
            if batch.is_empty() {
                return Ok(false);
            }
            self.publish(&batch).await?;
            outbox::save(tx.conn(), &reader, self.outbox.name(), cursor).await?;
            Ok(true)
        };
        Ok(self.outbox.write_as_system("relay", work).await?)
    }

    async fn publish(&self, batch: &[Delivery]) -> anyhow::Result<()> {
        let mut acks = vec![];
        for event in batch {
            let payload = event.envelope.clone().into();
            let publish =
                self.nats.context.publish_with_headers(subject(event), headers(event), payload);
            acks.push(publish.await?);
        }
        for ack in acks {
            ack.await?;
        }
        Ok(())
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
            match Delivery::of(message.payload.to_vec()) {
                Ok(event) => {
                    batch.push(event);
                    messages.push(message);
                }
                Err(error) => {
                    tracing::error!(%error, "a message that is no event; skipped");
                    message.ack().await.map_err(|error| anyhow::anyhow!(error))?;
                }
            }
        }
        let more = !batch.is_empty();
        let mut start = 0;
        while start < batch.len() {
            let (done, failure) = self.to.deliver(&batch[start..]).await;
            for message in &messages[start..start + done] {
                // Not confirmed: what is delivered again acts once.
                message.ack().await.map_err(|error| anyhow::anyhow!(error))?;
            }
            start += done;
            if let Some(error) = failure {
                self.failed(&batch[start], &messages[start], error).await?;
                start += 1;
            }
        }
        *held = Some(consumer);
        Ok(more)
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

    /// Sends an event back for a later try, or gives it up.
    async fn failed(
        &self,
        event: &Delivery,
        message: &jetstream::Message,
        error: crate::Error,
    ) -> anyhow::Result<()> {
        let attempts = message.info().map_or(1, |it| it.delivered);
        let attempts = u32::try_from(attempts).unwrap_or(1);
        let answer = if attempts < ATTEMPTS_MAX || self.to.wants().is_none() {
            tracing::warn!(event = %event.id, name = event.name, attempts, ?error, "an event waits");
            AckKind::Nak(Some(back_off(attempts)))
        } else {
            self.to.bury(event, &error).await?;
            AckKind::Ack
        };
        message.ack_with(answer).await.map_err(|error| anyhow::anyhow!(error))
    }
}

/// `tenantry.identity.v1.member_joined.<org id>`, so that wildcards choose service, event or tenant.
fn subject(event: &Delivery) -> String {
    let (package, name) = event.name.rsplit_once('.').unwrap_or(("tenantry", &event.name));
    let mut snake = String::new();
    for (i, c) in name.char_indices() {
        if c.is_ascii_uppercase() && i > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    let org = event.org_id.map_or_else(|| "account".to_owned(), |it| it.to_string());
    format!("{package}.{snake}.{org}")
}

/// CloudEvents 1.0 in binary mode, and the id by which JetStream drops duplicates.
fn headers(event: &Delivery) -> HeaderMap {
    let id = event.id.to_string();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id.as_str());
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-id", id.as_str());
    headers.insert("ce-type", event.name.as_str());
    headers.insert("ce-source", "tenantry");
    headers.insert("ce-datacontenttype", "application/protobuf");
    headers
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
    fn subjects_go_from_wide_to_narrow() {
        let name = "tenantry.identity.v1.MemberRoleChanged".to_owned();
        let (id, source) = (uuid::Uuid::nil(), "identity".to_owned());
        let mut event = Delivery { id, source, name, org_id: None, envelope: vec![] };
        assert_eq!(subject(&event), "tenantry.identity.v1.member_role_changed.account");
        event.org_id = Some(uuid::Uuid::nil());
        assert!(subject(&event).ends_with(".00000000-0000-0000-0000-000000000000"));
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(before("2.9.10", [2, 12, 7]));
        assert!(!before("2.15.1", [2, 12, 7]));
        assert!(!before("2.12.7-beta", [2, 12, 7]));
    }
}
