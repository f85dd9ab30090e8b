//! An entry with everything that the formats of exports show of it.

use api::{
    audit::Entry,
    event::{Activity, Envelope},
};
use data_encoding::BASE64;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Value, json};

use crate::search_index::ActionNames;

/// An entry, prepared for an export.
pub(crate) struct Record {
    pub(crate) entry: Entry,
    pub(crate) envelope: Envelope,
    /// Kind of the action.
    pub(crate) activity: Activity,
    /// All fields of the event, as JSON.
    pub(crate) event: Value,
}

impl Record {
    pub(crate) fn new(entry: Entry, actions: &ActionNames, pool: &DescriptorPool) -> Self {
        let envelope = entry.envelope.clone().unwrap_or_default();
        let activity = actions.activity_of(&envelope);
        let event = event_json(pool, &envelope);
        Self { entry, envelope, activity, event }
    }
}

/// Formats all fields of an event as JSON. An event that this version does not know is its type and its
/// bytes.
fn event_json(pool: &DescriptorPool, envelope: &Envelope) -> Value {
    let event = envelope.event.clone().unwrap_or_default();
    let name = event.type_url.rsplit('/').next().unwrap_or_default();
    let known = pool.get_message_by_name(name).and_then(|descriptor| {
        let message = DynamicMessage::decode(descriptor, &*event.value).ok()?;
        let options = SerializeOptions::new().use_proto_field_name(true);
        message.serialize_with_options(serde_json::value::Serializer, &options).ok()
    });
    known
        .unwrap_or_else(|| json!({ "@type": event.type_url, "value": BASE64.encode(&event.value) }))
}
