//! Decoding of delivered events. Bytes that are not a valid event are wrapped into an
//! `AuditEventUnparseable`, so that nothing is lost and nothing stops the log.

use api::{
    audit::AuditEventUnparseable,
    event::{Envelope, Origin},
};
use chassis::{key::hash, timestamp};
use eventing::Delivery;
use prost::{Message, Name};
use prost_types::Any;
use time::OffsetDateTime;
use uuid::Uuid;

/// Longest leaf in bytes: C2SP tlog-tiles encodes the length of an entry in 16 bits.
pub(crate) const LEAF_BYTES_MAX: usize = 63 << 10;
/// Longest part of an envelope that is kept when its event is removed.
const ENVELOPE_PART_BYTES_MAX: usize = 2 << 10;
/// Longest input that is kept inside an `AuditEventUnparseable`.
const UNPARSEABLE_BYTES_MAX: usize = 16 << 10;

/// Values of `AuditEventUnparseable.why`.
mod reason {
    pub(super) const NO_ENVELOPE: &str = "NO_ENVELOPE";
    pub(super) const FORGED_SOURCE: &str = "FORGED_SOURCE";
    pub(super) const TOO_LONG: &str = "TOO_LONG";
}

/// A service as the producer of events of one organization. Its events have consecutive sequence numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Producer {
    pub(crate) org_id: Uuid,
    pub(crate) source: String,
}

/// A decoded event, before it is sealed and appended to the log.
#[derive(Clone, Debug)]
pub(crate) struct IncomingEvent {
    pub(crate) id: Uuid,
    /// The service that delivered the event, authenticated by its connection.
    pub(crate) source: String,
    /// The organization whose tree gets the entry; nil for events of accounts.
    pub(crate) org_id: Uuid,
    /// Sequence number among the events of the source in the organization; 0 if there is none.
    pub(crate) sequence: i64,
    /// The encoded envelope, before sealing.
    pub(crate) bytes: Vec<u8>,
    pub(crate) envelope: Envelope,
}

impl IncomingEvent {
    /// Decodes a delivery. An invalid one becomes an event that records it.
    pub(crate) fn decode(delivery: &Delivery, now: OffsetDateTime) -> Self {
        let bytes = delivery.envelope.clone();
        let Ok(envelope) = Envelope::decode(&*bytes) else {
            return Self::unparseable(delivery, reason::NO_ENVELOPE, now);
        };
        let id = Uuid::try_parse(&envelope.id).ok();
        let org_id = match envelope.org_id.as_str() {
            "" => Some(Uuid::nil()),
            text => Uuid::try_parse(text).ok().filter(|it| !it.is_max() && !it.is_nil()),
        };
        let (Some(id), Some(org_id), true) = (id, org_id, envelope.sequence >= 0) else {
            return Self::unparseable(delivery, reason::NO_ENVELOPE, now);
        };
        if envelope.source != delivery.source {
            return Self::unparseable(delivery, reason::FORGED_SOURCE, now);
        }
        let event = Self {
            id,
            source: envelope.source.clone(),
            org_id,
            sequence: envelope.sequence,
            bytes,
            envelope,
        };
        let is_long = event.bytes.len() > LEAF_BYTES_MAX * 3 / 4;
        if is_long { event.without_payload(now) } else { event }
    }

    /// Wraps a delivery that is not a valid event of its source. The id is derived from the bytes, so a
    /// redelivery is the same event.
    fn unparseable(delivery: &Delivery, why: &str, now: OffsetDateTime) -> Self {
        let digest = hash(&delivery.envelope);
        let id = Uuid::from_slice(&digest[..16]).expect("a hash has 32 bytes");
        let envelope = Envelope {
            id: id.to_string(),
            source: delivery.source.clone(),
            occur_time: Some(timestamp(now)),
            event: Some(unparseable_event(&delivery.envelope, why)),
            origin: Some(Origin { request_id: "log".to_owned(), ..Default::default() }),
            ..Default::default()
        };
        Self {
            id,
            source: delivery.source.clone(),
            org_id: Uuid::nil(),
            sequence: 0,
            bytes: envelope.encode_to_vec(),
            envelope,
        }
    }

    /// The service and organization whose sequence numbers the event continues.
    pub(crate) fn producer(&self) -> Producer {
        Producer { org_id: self.org_id, source: self.source.clone() }
    }

    /// Removes the payload and every part of the envelope that is too long. Id, source and sequence number
    /// stay.
    pub(crate) fn without_payload(self, now: OffsetDateTime) -> Self {
        let full = self.envelope;
        let envelope = Envelope {
            id: full.id,
            source: full.source,
            org_id: full.org_id,
            sequence: full.sequence,
            event: Some(unparseable_event(&self.bytes, reason::TOO_LONG)),
            occur_time: full.occur_time.or_else(|| Some(timestamp(now))),
            project_id: uuid_or_empty(full.project_id),
            environment_id: uuid_or_empty(full.environment_id),
            parent_event_id: uuid_or_empty(full.parent_event_id),
            resource: if_short(full.resource),
            actor: if_short(full.actor),
            origin: if_short(full.origin),
            outcome: full.outcome,
            ..Default::default()
        };
        Self { bytes: envelope.encode_to_vec(), envelope, ..self }
    }

    /// Returns how far the clock of the producer is ahead of ours, judged by the time of the event. Negative
    /// values are normal: a delivery may be late.
    pub(crate) fn clock_skew(&self, now: OffsetDateTime) -> time::Duration {
        let occurred_at = self.envelope.occur_time.and_then(chassis::datetime);
        occurred_at.map_or(time::Duration::ZERO, |it| it - now)
    }
}

fn if_short<M: Message>(part: Option<M>) -> Option<M> {
    part.filter(|it| it.encoded_len() <= ENVELOPE_PART_BYTES_MAX)
}

fn uuid_or_empty(id: String) -> String {
    if Uuid::try_parse(&id).is_ok() { id } else { String::new() }
}

fn unparseable_event(bytes: &[u8], why: &str) -> Any {
    let received = if bytes.len() <= UNPARSEABLE_BYTES_MAX { bytes.to_vec() } else { vec![] };
    let event = AuditEventUnparseable {
        why: why.to_owned(),
        sha256: hash(bytes).to_vec(),
        size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        received,
    };
    Any { type_url: AuditEventUnparseable::type_url(), value: event.encode_to_vec() }
}
