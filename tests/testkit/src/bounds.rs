//! Bounds of texts and lists in events, as the contract declares them (`buf.validate.field`).

use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, ReflectMessage, Value};
use sqlx::{AssertSqlSafe, PgPool};

use crate::database::of_each_service;

/// A character of four bytes in UTF-8.
const WIDE: char = '\u{10FFFF}';

/// Validation rules of a field.
pub struct Bounds(DynamicMessage);

impl Bounds {
    /// Reads the rules of a field.
    pub fn of(field: &FieldDescriptor) -> Self {
        let option = field.parent_pool().get_extension_by_name("buf.validate.field");
        let option = option.expect("the contract defines the option");
        let options = field.options();
        Self(options.get_extension(&option).as_message().expect("the option is a message").clone())
    }

    fn rule(&self, path: &[&str]) -> Option<Value> {
        let (last, messages) = path.split_last()?;
        let mut message = self.0.clone();
        for name in messages {
            let next =
                message.has_field_by_name(name).then(|| message.get_field_by_name(name))??;
            message = next.as_message()?.clone();
        }
        let value = message.has_field_by_name(last).then(|| message.get_field_by_name(last))??;
        Some(value.into_owned())
    }

    fn size(&self, path: &[&str]) -> Option<usize> {
        usize::try_from(self.rule(path)?.as_u64()?).ok()
    }

    /// Largest number of items of a list.
    pub fn items(&self) -> Option<usize> {
        self.size(&["repeated", "max_items"])
    }

    /// A text of the largest size, or of an item if the field is a list; `None` if there is no bound.
    pub fn text(&self, is_list: bool) -> Option<String> {
        let parents: &[&str] = if is_list { &["repeated", "items", "string"] } else { &["string"] };
        let path = |name: &'static str| [parents, &[name]].concat();
        if self.rule(&path("uuid")).is_some() {
            return Some("0".repeat(36));
        }
        match (self.size(&path("max_bytes")), self.size(&path("max_len"))) {
            (Some(bytes), None) => Some("x".repeat(bytes)),
            (Some(bytes), Some(length)) => Some("x".repeat(bytes.min(length * 4))),
            (None, Some(length)) => Some(WIDE.to_string().repeat(length)),
            (None, None) => None,
        }
    }

    /// Largest number of bytes of a byte string.
    pub fn bytes(&self) -> Option<usize> {
        self.size(&["bytes", "max_len"])
    }
}

/// True if the field is never set in events (`tenantry.event.v1.not_in_events`).
pub fn is_absent(field: &FieldDescriptor) -> bool {
    let option = field.parent_pool().get_extension_by_name("tenantry.event.v1.not_in_events");
    let option = option.expect("the contract defines the option");
    field.options().get_extension(&option).as_bool().unwrap_or_default()
}

/// Fails if an event in an outbox exceeds the bounds of the contract.
pub(crate) async fn check(pool: &PgPool) {
    let written = of_each_service("select envelope from {service}.outbox");
    let written: Vec<Vec<u8>> = sqlx::query_scalar(AssertSqlSafe(written))
        .fetch_all(pool)
        .await
        .expect("the outboxes can be read");
    let contract = DescriptorPool::decode(api::DESCRIPTORS).expect("the contract can be decoded");
    let envelope = contract
        .get_message_by_name("tenantry.event.v1.Envelope")
        .expect("the contract has an envelope");
    for bytes in written {
        let event =
            DynamicMessage::decode(envelope.clone(), &*bytes).expect("an outbox has envelopes");
        let mut violations = vec![];
        compare(&contract, &event, &mut violations);
        assert!(violations.is_empty(), "fields exceed their bounds: {violations:?} in {event:?}");
    }
}

/// Appends the names of all fields of a message whose values exceed their bounds.
fn compare(contract: &DescriptorPool, message: &DynamicMessage, violations: &mut Vec<String>) {
    if message.descriptor().full_name() == "google.protobuf.Any" {
        let url = message.get_field_by_name("type_url").expect("an Any has a type").into_owned();
        let name = url.as_str().unwrap_or_default().trim_start_matches('/');
        let body = message.get_field_by_name("value").expect("an Any has a value").into_owned();
        let event = contract.get_message_by_name(name).expect("an event of the contract");
        let body = body.as_bytes().cloned().unwrap_or_default();
        // Some tests write events with bodies that cannot be decoded.
        if let Ok(body) = DynamicMessage::decode(event, body) {
            compare(contract, &body, violations);
        }
        return;
    }
    for (field, value) in message.fields() {
        let bounds = Bounds::of(&field);
        let items = match value {
            Value::List(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        let too_many = field.is_list() && bounds.items().is_none_or(|max| items.len() > max);
        if is_absent(&field) || too_many {
            violations.push(field.full_name().to_owned());
        }
        for item in items {
            let fits = match item {
                Value::Message(it) => {
                    compare(contract, it, violations);
                    true
                }
                Value::String(text) => fits(&bounds, field.is_list(), text),
                Value::Bytes(it) => bounds.bytes().is_some_and(|max| it.len() <= max),
                _ => true,
            };
            if !fits {
                violations.push(field.full_name().to_owned());
            }
        }
    }
}

/// Returns true if a text is not longer than the largest one of its bounds.
fn fits(bounds: &Bounds, is_list: bool, text: &str) -> bool {
    let Some(largest) = bounds.text(is_list) else { return false };
    // Bounds in characters have a sample of wide characters, bounds in bytes one of ASCII.
    if largest.starts_with(WIDE) {
        text.chars().count() <= largest.chars().count()
    } else {
        text.len() <= largest.len()
    }
}
