//! An event in delivery: between the outbox and a subscriber.

use api::event::Envelope;
use chassis::{key, outbox::event_type, trace};
use prost::Message;
use uuid::Uuid;

/// An event in delivery, still encoded.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Id of the event.
    pub id: Uuid,
    /// Name of the service that wrote it.
    pub source: String,
    /// Type of the event: the full name of its message. Empty if the envelope is not valid.
    pub event_type: String,
    /// The organization that the event belongs to.
    pub org_id: Option<Uuid>,
    /// The bytes in the outbox: an encoded [`api::event::Envelope`].
    pub envelope: Vec<u8>,
}

impl Delivery {
    /// Decodes an envelope from the authenticated service `source`. If it is malformed or names another
    /// source, its event type is empty, so that no reaction handles it, and its id is a digest of its bytes,
    /// so that the audit log records it once.
    pub fn of(source: &str, envelope: Vec<u8>) -> Self {
        let event = Envelope::decode(&*envelope).ok();
        let event = event.filter(|it| it.source == source);
        let id = event.as_ref().and_then(|it| Uuid::try_parse(&it.id).ok());
        let (Some(event), Some(id)) = (event, id) else {
            let digest = &key::hash(&envelope)[..16];
            let id = Uuid::from_slice(digest).expect("a UUID has 16 bytes");
            return Self {
                id,
                source: source.to_owned(),
                event_type: String::new(),
                org_id: None,
                envelope,
            };
        };
        let org_id = Uuid::try_parse(&event.org_id).ok();
        Self { id, event_type: event_type(&event), source: event.source, org_id, envelope }
    }

    /// Decodes a stored envelope, for example of a dead letter.
    pub(crate) fn stored(id: Uuid, envelope: Vec<u8>) -> Self {
        let event = Envelope::decode(&*envelope).unwrap_or_default();
        let org_id = Uuid::try_parse(&event.org_id).ok();
        Self { id, event_type: event_type(&event), source: event.source, org_id, envelope }
    }

    /// Returns the trace context of the call that wrote the event (`traceparent`). Empty if spans are not
    /// exported, because it costs a decoding, or if the call had none.
    pub(crate) fn traceparent(&self) -> String {
        if !trace::is_enabled() {
            return String::new();
        }
        let envelope = Envelope::decode(&*self.envelope).ok();
        envelope.and_then(|it| it.origin).map(|it| it.traceparent).unwrap_or_default()
    }

    /// Returns the id of the object that the event is about; without one, the id of the event.
    pub(crate) fn object_id(&self) -> Uuid {
        let envelope = Envelope::decode(&*self.envelope).ok();
        let object = envelope.and_then(|it| it.resource);
        object.and_then(|it| Uuid::try_parse(&it.id).ok()).unwrap_or(self.id)
    }
}
