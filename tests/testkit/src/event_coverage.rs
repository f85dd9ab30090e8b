//! Coverage of the contract by events (AU-1): at the end of each suite every call in the audit log must have
//! exactly one primary event; the methods are recorded in `target/event-coverage`, where `cargo xtask test`
//! compares them with the contract.

use std::{collections::BTreeMap, path::PathBuf};

use api::event::{Envelope, Outcome};
use prost::Message;
use sqlx::PgPool;

/// Folder with one file per suite; each line is a method that has left a primary event.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/event-coverage")
}

/// Fails if a call left no primary event or several; records the methods of all others.
pub(crate) async fn check(pool: &PgPool) {
    let leaves: Vec<Vec<u8>> = sqlx::query_scalar("select leaf from audit.entry")
        .fetch_all(pool)
        .await
        .expect("the entries can be read");
    let mut calls: BTreeMap<(String, String), Vec<(String, bool)>> = BTreeMap::new();
    let envelopes = leaves.iter().map(|it| Envelope::decode(&**it).expect("an entry is an event"));
    let envelopes: Vec<Envelope> = envelopes.collect();
    let call_of = |it: &Envelope| it.origin.as_ref().map(|it| it.request_id.clone());
    let calls_of_events: BTreeMap<_, _> =
        envelopes.iter().map(|it| (it.id.clone(), call_of(it))).collect();
    for envelope in envelopes {
        let succeeded = envelope.outcome() == Outcome::Success;
        let origin = envelope.origin.unwrap_or_default();
        // Events of timers and reactions have no method.
        if succeeded && !origin.method.is_empty() {
            let name = envelope.event.map(|event| event.type_url).unwrap_or_default();
            // The parent of the primary event of a runner's call is an event of another call.
            let call = Some(origin.request_id.clone());
            let primary = calls_of_events.get(&envelope.parent_event_id) != Some(&call);
            calls.entry((origin.method, origin.request_id)).or_default().push((name, primary));
        }
    }
    let mut methods: Vec<&str> = vec![];
    for ((method, request_id), events) in &calls {
        let primary = events.iter().filter(|(_, primary)| *primary).count();
        assert_eq!(
            primary, 1,
            "number of primary events of {method}, request {request_id}: {events:?}"
        );
        methods.push(method);
    }
    methods.dedup();
    std::fs::create_dir_all(folder()).expect("the directory can be created");
    let record = folder().join(chassis::id::new().to_string());
    std::fs::write(record, methods.join("\n")).expect("the file can be written");
}
