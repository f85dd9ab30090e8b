//! JSON of events, compared with golden files, because consumers and old logs depend on it: `golden/events`
//! has the body of every event of the contract, built from samples; `golden/scenario_events` has envelopes of
//! real events of the demo scenario.

use std::{collections::BTreeMap, path::PathBuf};

use api::audit;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, Value as Field};
use serde_json::Value;
use tenantry::demo::{Console, run_scenario};
use testkit::{Suite, bounds::is_absent};

use super::event_sizes::events;

/// Deepest level of nested messages in samples.
const DEPTH_MAX: usize = 4;

#[test]
fn every_event_matches_its_golden() {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let mut files = BTreeMap::new();
    for event in events(&pool) {
        let json = serde_json::to_string_pretty(&sample(&event, 0)).unwrap() + "\n";
        files.insert(format!("{}.json", event.full_name()), json);
    }
    compare("events", &files);
}

/// A message with a value in every field: the JSON name of a field as its text, one item in a list, the first
/// field of a oneof.
fn sample(descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields().filter(|field| !is_absent(field)) {
        let is_oneof_set = field
            .containing_oneof()
            .is_some_and(|oneof| oneof.fields().any(|other| message.has_field(&other)));
        let is_too_deep = depth == DEPTH_MAX && matches!(field.kind(), Kind::Message(_));
        if is_oneof_set || is_too_deep {
            continue;
        }
        let item = match field.kind() {
            Kind::Message(inner) if inner.full_name() == "google.protobuf.Timestamp" => {
                let mut time = DynamicMessage::new(inner);
                time.set_field_by_name("seconds", Field::I64(1_767_225_600));
                Field::Message(time)
            }
            Kind::Message(inner) => Field::Message(sample(&inner, depth + 1)),
            Kind::String => Field::String(field.json_name().to_owned()),
            Kind::Bytes => Field::Bytes(vec![1, 2, 3].into()),
            Kind::Bool => Field::Bool(true),
            Kind::Enum(kind) => {
                let last = kind.values().max_by_key(prost_reflect::EnumValueDescriptor::number);
                Field::EnumNumber(last.unwrap().number())
            }
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Field::I32(7),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Field::I64(7),
            Kind::Uint32 | Kind::Fixed32 => Field::U32(7),
            Kind::Uint64 | Kind::Fixed64 => Field::U64(7),
            Kind::Double => Field::F64(0.5),
            Kind::Float => Field::F32(0.5),
        };
        let value = if field.is_list() { Field::List(vec![item]) } else { item };
        message.set_field(&field, value);
    }
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_the_scenario_match_their_goldens() {
    let suite = Suite::start().await;
    let outcome = run_scenario(&suite.services(), &suite.mailbox, Console::quiet()).await.unwrap();
    let owner = suite.client.with_token(&outcome.owner_token);
    let method = "tenantry.audit.v1.AuditService/ListAccountEntries";
    let list = audit::ListAccountEntriesRequest::default();
    let account: audit::ListAccountEntriesResponse = owner.call(method, list).await.unwrap();
    let mut files = BTreeMap::new();
    for entry in outcome.entries.iter().chain(&account.entries) {
        let envelope = entry.envelope.as_ref().unwrap();
        let name = envelope.event.as_ref().unwrap().type_url.trim_start_matches('/').to_owned();
        let shape = without_values(suite.client.to_json(envelope).unwrap());
        files.insert(format!("{name}.json"), serde_json::to_string_pretty(&shape).unwrap() + "\n");
    }
    suite.finish().await;
    compare("scenario_events", &files);
}

/// Replaces texts that differ from run to run by `text`. Names of fields, enum values, numbers and types of
/// events are kept.
fn without_values(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, without_values(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_values).collect(),
        Value::String(text) => {
            let is_enum =
                text.len() > 3 && text.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            let is_kept = is_enum || text.starts_with("/tenantry.");
            Value::String(if is_kept { text } else { "text".to_owned() })
        }
        other => other,
    }
}

/// Compares texts with the golden files of a folder; writes them with `UPDATE_GOLDEN`.
fn compare(folder: &str, files: &BTreeMap<String, String>) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(folder);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let golden: BTreeMap<String, String> = entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    let hint = "has changed; if intended, run: cargo xtask gen";
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(files), names(&golden), "the set of events {hint}");
    for (name, text) in files {
        assert_eq!(text, &golden[name], "{name} {hint}");
    }
}
