//! What arrives at the log: an event, or something that is none and is kept all the same.

use api::{
    audit::Unparseable,
    event::{Envelope, Origin},
};
use chassis::{key::hash, outbox::Delivery, timestamp};
use prost::{Message, Name};
use prost_types::Any;
use time::OffsetDateTime;
use uuid::Uuid;

/// The longest leaf, in bytes: tlog-tiles gives the length of an entry 16 bits.
pub(crate) const LEAF_BYTES_MAX: usize = 63 << 10;
/// The longest part of an envelope that is kept when its event is cut off.
const PART_BYTES_MAX: usize = 2 << 10;
/// How much of what cannot be read is kept.
const KEPT_BYTES_MAX: usize = 16 << 10;

/// An event on its way into the log.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) id: Uuid,
    /// The service that handed it over, proven by its connection.
    pub(crate) source: String,
    /// The organization whose tree it goes to; nil if it has none.
    pub(crate) org_id: Uuid,
    /// Its number among the events of its source and organization; 0 if it has none.
    pub(crate) sequence: i64,
    /// The bytes, before anything in them is sealed.
    pub(crate) bytes: Vec<u8>,
    pub(crate) envelope: Envelope,
}

impl Arrival {
    /// Reads what was delivered. What cannot be read becomes an entry that says so.
    pub(crate) fn of(delivery: &Delivery, now: OffsetDateTime) -> Self {
        let bytes = delivery.envelope.clone();
        let Ok(envelope) = Envelope::decode(&*bytes) else {
            return Self::unreadable(delivery, "NO_ENVELOPE", now);
        };
        let id = Uuid::try_parse(&envelope.id).ok();
        let org_id = match envelope.org_id.as_str() {
            "" => Some(Uuid::nil()),
            text => Uuid::try_parse(text).ok().filter(|it| !it.is_max() && !it.is_nil()),
        };
        let (Some(id), Some(org_id), true) = (id, org_id, envelope.sequence >= 0) else {
            return Self::unreadable(delivery, "NO_ENVELOPE", now);
        };
        if envelope.source != delivery.source {
            return Self::unreadable(delivery, "FORGED_SOURCE", now);
        }
        let (source, sequence) = (envelope.source.clone(), envelope.sequence);
        let whole = Self { id, source, org_id, sequence, bytes, envelope };
        if whole.bytes.len() > LEAF_BYTES_MAX * 3 / 4 { whole.cut(now) } else { whole }
    }

    /// An entry about bytes that are no event of whoever handed them over.
    fn unreadable(delivery: &Delivery, why: &str, now: OffsetDateTime) -> Self {
        let digest = hash(&delivery.envelope);
        // The same bytes are the same entry, however often they come.
        let id = Uuid::from_slice(&digest[..16]).expect("a hash is longer than that");
        let envelope = Envelope {
            id: id.to_string(),
            source: delivery.source.clone(),
            occur_time: Some(timestamp(now)),
            event: Some(unparseable(&delivery.envelope, why)),
            origin: Some(Origin { request_id: "log".to_owned(), ..Default::default() }),
            ..Default::default()
        };
        let (source, bytes) = (delivery.source.clone(), envelope.encode_to_vec());
        Self { id, source, org_id: Uuid::nil(), sequence: 0, bytes, envelope }
    }

    /// The same event without its body and without other parts that are too long. Its place among the events
    /// of its source stays.
    pub(crate) fn cut(self, now: OffsetDateTime) -> Self {
        let it = self.envelope;
        let envelope = Envelope {
            id: it.id,
            source: it.source,
            org_id: it.org_id,
            sequence: it.sequence,
            event: Some(unparseable(&self.bytes, "TOO_LONG")),
            occur_time: it.occur_time.or_else(|| Some(timestamp(now))),
            project_id: short(it.project_id),
            environment_id: short(it.environment_id),
            parent_event_id: short(it.parent_event_id),
            resource: small(it.resource),
            actor: small(it.actor),
            origin: small(it.origin),
            outcome: it.outcome,
            ..Default::default()
        };
        Self { bytes: envelope.encode_to_vec(), envelope, ..self }
    }

    /// How far the clock of its service was from ours.
    pub(crate) fn skew(&self, now: OffsetDateTime) -> time::Duration {
        let told = self.envelope.occur_time.and_then(chassis::moment);
        // An event may be on its way for long; it cannot come before it happened.
        told.map_or(time::Duration::ZERO, |it| it - now)
    }
}

/// A part of an envelope, if it is short enough to be kept when its event is cut off.
fn small<M: Message>(part: Option<M>) -> Option<M> {
    part.filter(|it| it.encoded_len() <= PART_BYTES_MAX)
}

/// An identifier, if it can be one.
fn short(id: String) -> String {
    if Uuid::try_parse(&id).is_ok() { id } else { String::new() }
}

fn unparseable(bytes: &[u8], why: &str) -> Any {
    let received = if bytes.len() <= KEPT_BYTES_MAX { bytes.to_vec() } else { vec![] };
    let event = Unparseable {
        why: why.to_owned(),
        sha256: hash(bytes).to_vec(),
        size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        received,
    };
    Any { type_url: Unparseable::type_url(), value: event.encode_to_vec() }
}
