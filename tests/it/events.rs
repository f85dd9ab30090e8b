//! Each event as it goes over the wire and into the log: a change of its shape is a readable diff, because
//! consumers and old logs depend on it.

use std::{collections::BTreeMap, path::PathBuf};

use api::audit;
use serde_json::Value;
use tenantry::demo::{Voice, play};
use testkit::Suite;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/events")
}

#[tokio::test(flavor = "multi_thread")]
async fn events_look_as_written() {
    let suite = Suite::start().await;
    let played = play(&suite.services(), &suite.mailbox, Voice::silent()).await.unwrap();
    let ann = suite.client.with_token(&played.owner_token);
    let method = "tenantry.audit.v1.AuditService/ListAccountEntries";
    let list = audit::ListAccountEntriesRequest::default();
    let account: audit::ListAccountEntriesResponse = ann.call(method, list).await.unwrap();
    let mut shapes = BTreeMap::new();
    for entry in played.entries.iter().chain(&account.entries) {
        let envelope = entry.envelope.as_ref().unwrap();
        let name = envelope.event.as_ref().unwrap().type_url.trim_start_matches('/').to_owned();
        let shape = shape(suite.client.json(envelope).unwrap());
        shapes.insert(format!("{name}.json"), serde_json::to_string_pretty(&shape).unwrap() + "\n");
    }
    suite.finish().await;
    compare(&shapes);
}

/// The event without what differs from telling to telling: names of fields and values of enums stay.
fn shape(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields.into_iter().map(|(name, it)| (name, shape(it))).collect(),
        Value::Array(items) => items.into_iter().map(shape).collect(),
        Value::String(text) => {
            let name = |it: char| it.is_ascii_uppercase() || it == '_';
            let kept = text.starts_with("/tenantry.") || (text.len() > 3 && text.chars().all(name));
            if kept { Value::String(text) } else { Value::String("text".to_owned()) }
        }
        other => other,
    }
}

fn compare(shapes: &BTreeMap<String, String>) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let _ = std::fs::remove_dir_all(golden());
        std::fs::create_dir_all(golden()).unwrap();
        for (name, shape) in shapes {
            std::fs::write(golden().join(name), shape).unwrap();
        }
    }
    let entries = std::fs::read_dir(golden()).into_iter().flatten().flatten();
    let written: BTreeMap<_, _> = entries
        .map(|it| {
            (it.file_name().into_string().unwrap(), std::fs::read_to_string(it.path()).unwrap())
        })
        .collect();
    let names = |it: &BTreeMap<String, String>| it.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(shapes),
        names(&written),
        "the events of the story; if meant: cargo xtask gen"
    );
    for (name, shape) in shapes {
        assert_eq!(shape, &written[name], "{name} has changed; if that is meant: cargo xtask gen");
    }
}
