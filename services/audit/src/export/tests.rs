//! Tests of the formats over every event of the contract.

use api::{
    audit::Entry,
    event::{Actor, Envelope, Origin, Resource},
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MapKey, MessageDescriptor, Value};

use super::{csv, ocsf, record::Record};
use crate::{diff::changed_fields, search_index::ActionNames};

/// A message with another value in every field, and these values.
struct Filler {
    next: i32,
    values: Vec<String>,
}

impl Filler {
    fn message(&mut self, descriptor: &MessageDescriptor, depth: u8) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            // Only the first field of a oneof.
            let first = field.containing_oneof().and_then(|it| it.fields().next());
            if first.is_some_and(|it| it != field) {
                continue;
            }
            if field.is_map() {
                let (key, value) = (self.text(), self.text());
                let entries = [(MapKey::String(key), Value::String(value))].into();
                message.set_field(&field, Value::Map(entries));
                continue;
            }
            let Some(value) = self.value(&field.kind(), depth) else { continue };
            let value = if field.is_list() { Value::List(vec![value]) } else { value };
            message.set_field(&field, value);
        }
        message
    }

    fn text(&mut self) -> String {
        let text = format!("value-{}-end", self.number());
        self.values.push(text.clone());
        text
    }

    fn number(&mut self) -> i32 {
        self.next += 1;
        self.next
    }

    fn value(&mut self, kind: &Kind, depth: u8) -> Option<Value> {
        let number = 7_000_000 + self.number();
        let is_number = !matches!(kind, Kind::String | Kind::Bool | Kind::Enum(_) | Kind::Bytes);
        if is_number && !matches!(kind, Kind::Message(_)) {
            self.values.push(number.to_string());
        }
        Some(match kind {
            Kind::String => Value::String(self.text()),
            Kind::Bool => Value::Bool(true),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(number),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(number.into()),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(number.unsigned_abs()),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(number.unsigned_abs().into()),
            Kind::Double => Value::F64(number.into()),
            Kind::Bytes => {
                let bytes = number.to_string().into_bytes();
                self.values.push(data_encoding::BASE64.encode(&bytes));
                Value::Bytes(bytes.into())
            }
            Kind::Enum(descriptor) => {
                let value = descriptor.values().nth(1)?;
                self.values.push(value.name().to_owned());
                Value::EnumNumber(value.number())
            }
            Kind::Message(inner) if inner.full_name() == "google.protobuf.Timestamp" => {
                let seconds = i64::from(number) * 100;
                let time = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
                self.values.push(time.date().to_string());
                let timestamp = prost_types::Timestamp { seconds, nanos: 0 };
                let bytes = timestamp.encode_to_vec();
                Value::Message(DynamicMessage::decode(inner.clone(), &*bytes).unwrap())
            }
            Kind::Message(inner) if depth < 6 => Value::Message(self.message(inner, depth + 1)),
            _ => return None,
        })
    }
}

/// AU-21: every field of every event is in every format.
#[test]
fn every_field_of_every_event_is_in_every_format() {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let actions = ActionNames::load(api::DESCRIPTORS).unwrap();
    let action = pool.get_extension_by_name("tenantry.event.v1.action").unwrap();
    let mut count = 0;
    for descriptor in pool.all_messages() {
        if descriptor.options().get_extension(&action).as_str().is_none_or(str::is_empty) {
            continue;
        }
        count += 1;
        let mut filler = Filler { next: 0, values: vec![] };
        let message = filler.message(&descriptor, 0);
        let mut text = || filler.text();
        let envelope = Envelope {
            id: text(),
            source: text(),
            org_id: text(),
            project_id: text(),
            environment_id: text(),
            parent_event_id: text(),
            reason: text(),
            resource: Some(Resource { kind: text(), id: text(), name: text() }),
            actor: Some(Actor {
                kind: 1,
                id: text(),
                name: text(),
                email: text(),
                credential_id: text(),
            }),
            origin: Some(Origin {
                method: text(),
                request_id: text(),
                address: text(),
                user_agent: text(),
                traceparent: text(),
            }),
            event: Some(prost_types::Any {
                type_url: format!("/{}", descriptor.full_name()),
                value: message.encode_to_vec(),
            }),
            ..Envelope::default()
        };
        let mut values = filler.values;
        let entry = Entry {
            index: 1,
            action: actions.action_of(&envelope).to_owned(),
            changes: changed_fields(&pool, envelope.event.as_ref().unwrap()),
            envelope: Some(envelope),
            flags: vec!["value-flag-end".to_owned()],
            ..Entry::default()
        };
        values.push("value-flag-end".to_owned());
        let record = Record::new(entry, &actions, &pool);
        let ocsf = ocsf::event(&record).to_string();
        let csv = csv::line(&record);
        for value in &values {
            let name = descriptor.full_name();
            assert!(ocsf.contains(value), "{name}: no {value} in {ocsf}");
            assert!(csv.contains(value), "{name}: no {value} in {csv}");
        }
    }
    assert!(count > 100, "{count} events");
}

#[test]
fn every_line_has_a_cell_for_every_column() {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let actions = ActionNames::load(api::DESCRIPTORS).unwrap();
    let entry = Entry { action: "member.removed".to_owned(), ..Entry::default() };
    let record = Record::new(entry, &actions, &pool);
    let cells = |line: &str| {
        let mut quoted = false;
        let separators = line.chars().filter(|it| {
            quoted ^= *it == '"';
            *it == ',' && !quoted
        });
        separators.count()
    };
    assert_eq!(cells(&csv::line(&record)), cells(&csv::header()));
    assert!(csv::header().starts_with("\u{feff}index,"));
}
