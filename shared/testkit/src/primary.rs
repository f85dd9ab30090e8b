//! Each change leaves exactly one primary event: looked at in what every test has left in the log, so that
//! the methods that some test has called are known, too (AU-1).

use std::{collections::BTreeMap, path::PathBuf};

use api::event::{Envelope, Outcome};
use prost::Message;
use sqlx::PgPool;

/// Where the methods that left a primary event are noted, for `cargo xtask test`.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/told")
}

/// Fails if a call left no primary event beside its others, or several; notes which methods left one.
pub(crate) async fn check(pool: &PgPool) {
    let leaves: Vec<Vec<u8>> =
        sqlx::query_scalar("select leaf from audit.entry").fetch_all(pool).await.expect("the log");
    let mut calls: BTreeMap<(String, String), Vec<(String, bool)>> = BTreeMap::new();
    for leaf in leaves {
        let it = Envelope::decode(&*leaf).expect("an entry is an event");
        let (done, origin) = (it.outcome() == Outcome::Success, it.origin.unwrap_or_default());
        // What a timer or a reaction does has no method.
        if done && !origin.method.is_empty() {
            let name = it.event.map(|it| it.type_url).unwrap_or_default();
            let primary = it.parent_event_id.is_empty();
            calls.entry((origin.method, origin.request_id)).or_default().push((name, primary));
        }
    }
    let mut told: Vec<&str> = vec![];
    for ((method, request_id), events) in &calls {
        let primary = events.iter().filter(|it| it.1).count();
        assert_eq!(primary, 1, "{method}, request {request_id}: {events:?}");
        told.push(method);
    }
    told.dedup();
    std::fs::create_dir_all(folder()).expect("a folder");
    let note = folder().join(chassis::id::new().to_string());
    std::fs::write(note, told.join("\n")).expect("a note");
}
