//! The relay: publishes an outbox to JetStream.

use api::event::Envelope;
use async_nats::HeaderMap;
use chassis::{
    Db, Tx, assert_no_transaction, datetime,
    trace::{self, Kind},
};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use prost::{Message, Name};
use sqlx::{Either, postgres::PgAdvisoryLock};
use time::format_description::well_known::Rfc3339;
use tracing::{Instrument, Span};
use worker::Progress;

use crate::{
    BATCH,
    cursor::{self, Cursor, ReaderPositions},
    delivery::Delivery,
    jetstream::JetStream,
};

/// Publishes the outbox of one service.
pub(super) struct Relay {
    nats: JetStream,
    outbox: Db,
    positions: ReaderPositions,
    lock: PgAdvisoryLock,
}

impl Relay {
    pub(super) fn new(nats: JetStream, outbox: Db, positions: ReaderPositions) -> Self {
        positions.set("relay", Cursor::default());
        let lock = PgAdvisoryLock::new(format!("tenantry relay of {}", outbox.name()));
        Self { nats, outbox, positions, lock }
    }

    /// Publishes a batch, and saves the position once NATS has acknowledged it. No transaction is open
    /// meanwhile: NATS may take as long as its time-outs allow.
    pub(super) async fn step(&self) -> anyhow::Result<Progress> {
        let stream = self.nats.stream().await?;
        // A stream that was created again is empty, so its relay starts at the first event.
        let reader = format!("relay@{}", stream.cached_info().created.unix_timestamp_nanos());
        if self.next_batch(&reader).await?.0.is_empty() {
            return Ok(Progress::Idle);
        }
        // One relay publishes at a time among all replicas, so that each event is published once. Delivery
        // does not depend on it: JetStream and the inboxes drop duplicates.
        let connection = self.outbox.pool().acquire().await?;
        let Either::Left(lock) = self.lock.try_acquire(connection).await? else {
            return Ok(Progress::Idle);
        };
        let (batch, cursor) = self.next_batch(&reader).await?;
        let published = self.publish(&batch).await;
        if published.is_ok() {
            self.save(&reader, &batch, cursor).await?;
        }
        lock.release_now().await?;
        published.map(|()| Progress::busy_if(!batch.is_empty()))
    }

    /// Reads the events after the saved position. Returns them with the position after them.
    async fn next_batch(&self, reader: &str) -> anyhow::Result<(Vec<Delivery>, Cursor)> {
        let mut connection = self.outbox.pool().acquire().await?;
        let from = Cursor::load(&mut connection, reader, self.outbox.name()).await?;
        drop(connection);
        self.positions.set("relay", from);
        Ok(cursor::read(&self.outbox, from, BATCH).await?)
    }

    /// Saves the position after a published batch.
    async fn save(&self, reader: &str, batch: &[Delivery], cursor: Cursor) -> anyhow::Result<()> {
        let save = async |tx: &mut Tx| {
            if self.outbox.faults().delete_published_events {
                let ids: Vec<uuid::Uuid> = batch.iter().map(|it| it.id).collect();
                sqlx::query!("delete from outbox where id = any ($1)", &ids)
                    .execute(tx.conn())
                    .await?;
            }
            cursor.save(tx.conn(), reader, self.outbox.name()).await
        };
        Ok(self.outbox.write_relaxed(save).await?)
    }

    /// Publishes events and waits for their acknowledgements.
    async fn publish(&self, batch: &[Delivery]) -> anyhow::Result<()> {
        assert_no_transaction();
        let span = span(batch);
        self.send(batch).instrument(span).await
    }

    async fn send(&self, batch: &[Delivery]) -> anyhow::Result<()> {
        let mut acks = vec![];
        for event in batch {
            let payload = event.envelope.clone().into();
            let context = &self.nats.context;
            acks.push(context.publish_with_headers(subject(event), headers(event), payload).await?);
        }
        for ack in acks {
            ack.await?;
        }
        Ok(())
    }
}

/// Creates the span of the publication of a batch, in the trace of its first event and with links to
/// those of the others.
fn span(batch: &[Delivery]) -> Span {
    let Some((first, others)) = batch.split_first().filter(|_| trace::is_enabled()) else {
        return Span::none();
    };
    let span = trace::continued(Kind::Producer, "send tenantry.events", &first.traceparent());
    for event in others {
        trace::link(&span, &event.traceparent());
    }
    trace::set(&span, "messaging.system", "nats");
    trace::set(&span, "messaging.operation.type", "send");
    let count = i64::try_from(batch.len()).unwrap_or(i64::MAX);
    trace::set(&span, "messaging.batch.message_count", count);
    span
}

/// Returns the subject of an event, for example `tenantry.identity.v1.member_joined.<org id>`, so that
/// wildcards select a service, an event type or an organization. The second token is the service that
/// publishes: its NATS user may publish to no other subjects.
fn subject(event: &Delivery) -> String {
    let name = event.event_type.rsplit('.').next().unwrap_or_default();
    let mut snake = String::new();
    for (i, c) in name.char_indices() {
        if c.is_ascii_uppercase() && i > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    let org = event.org_id.map_or_else(|| "account".to_owned(), |it| it.to_string());
    format!("tenantry.{}.v1.{snake}.{org}", event.source)
}

/// Characters that are percent-encoded in a header value (CloudEvents NATS binding, 3.1.3.2): space, `"`,
/// `%`, and those outside of printable ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Returns the headers of an event: CloudEvents 1.0 in binary mode, with the attributes of the envelope that
/// is the data, and the id by which JetStream drops duplicates.
fn headers(event: &Delivery) -> HeaderMap {
    let envelope = Envelope::decode(&*event.envelope).unwrap_or_default();
    let id = event.id.to_string();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id.as_str());
    let mut insert = |name: &str, value: &str| {
        if !value.is_empty() {
            headers.insert(name, utf8_percent_encode(value, ENCODED).to_string());
        }
    };
    insert("ce-specversion", "1.0");
    insert("ce-id", &id);
    insert("ce-source", &format!("/tenantry/{}", event.source));
    insert("ce-type", &Envelope::full_name());
    // An extension attribute: the payload in the envelope.
    insert("ce-eventtype", &event.event_type);
    insert("ce-time", &time(&envelope).unwrap_or_default());
    insert("ce-datacontenttype", "application/protobuf");
    if let Some(resource) = &envelope.resource {
        insert("ce-subject", &format!("{}/{}", resource.kind, resource.id));
    }
    if let Some(origin) = &envelope.origin {
        // As a CloudEvents extension and as W3C Trace Context, which instrumented clients read.
        insert("ce-traceparent", &origin.traceparent);
        insert("traceparent", &origin.traceparent);
    }
    headers
}

/// Returns the time of an event (RFC 3339).
fn time(envelope: &Envelope) -> Option<String> {
    datetime(envelope.occur_time?)?.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_service_event_type_and_organization() {
        let mut event = Delivery {
            id: uuid::Uuid::nil(),
            source: "identity".to_owned(),
            event_type: "tenantry.identity.v1.MemberRoleChanged".to_owned(),
            org_id: None,
            envelope: vec![],
        };
        assert_eq!(subject(&event), "tenantry.identity.v1.member_role_changed.account");
        event.org_id = Some(uuid::Uuid::nil());
        assert!(subject(&event).ends_with(".00000000-0000-0000-0000-000000000000"));
    }
}
