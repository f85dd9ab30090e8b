//! Files of the audit log, and what stays of a person who is erased.

use api::audit::{self as pb, ExportFormat};
use serde_json::{Value, json};
use testkit::Suite;
use verifier::{Refused, bundle};

use crate::{ledger::Ledger, world::World};

fn lines(file: &[u8]) -> Vec<Value> {
    let text = str::from_utf8(file).unwrap();
    text.lines().map(|it| serde_json::from_str(it).unwrap()).collect()
}

/// A-18, AU-5, AU-14 (without its limit), G-11: each format holds every entry; a bundle proves all of them,
/// and that none is missing; the export itself is in the log.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_everything_and_is_in_the_log_itself() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    world.team("=cmd|' /C calc'!A0", &[]).await;
    let head = ledger.head(&suite).await;
    let all = ledger.find(json!({})).await.len();
    let json = lines(&ledger.export(ExportFormat::Json).await);
    assert_eq!(json.len(), all);
    assert!(json[0]["index"].is_null() && json[0]["action"] == "org.created", "oldest first");
    let ocsf = lines(&ledger.export(ExportFormat::Ocsf).await);
    assert!(ocsf.iter().all(|it| it["class_uid"] == 6003));
    let csv = String::from_utf8(ledger.export(ExportFormat::Csv).await).unwrap();
    assert!(csv.starts_with("index,receive_time,"));
    // AU-15: a name that would be a formula is a text.
    assert!(csv.contains("'=cmd|"), "{csv}");
    assert!(!csv.contains(",=cmd|"));

    ledger.head(&suite).await;
    let file = ledger.export(ExportFormat::Bundle).await;
    let mut told = vec![];
    let report = bundle::verify(
        &*file,
        &ledger.pins,
        |_| Some(head.size),
        |it| {
            told.push(it.clone());
        },
    );
    let report = report.unwrap();
    assert!(report.whole && report.hidden == 0 && report.entries >= head.size);
    assert_eq!(report.root_at, Some(head.root), "it continues what was seen before");
    assert_eq!(report.sources["identity"].0, 1);
    assert!(report.suite.is_some());
    let exported = told.iter().filter(|it| it.event.ends_with("EntriesExported")).count();
    assert_eq!(exported, 3);
    // One byte of one entry, and it says which.
    let mut changed = lines(&file);
    let mut leaf = changed[4]["leaf"].as_str().unwrap().to_owned().into_bytes();
    leaf[40] = if leaf[40] == b'A' { b'B' } else { b'A' };
    changed[4]["leaf"] = String::from_utf8(leaf).unwrap().into();
    let changed: String = changed.iter().map(|it| format!("{it}\n")).collect();
    assert_eq!(ledger.verify(changed.as_bytes()), Err(Refused::Changed { index: 3 }));
    suite.logged().await;
    let audited = ledger.find(json!({ "action": "audit.exported" })).await;
    assert_eq!(audited.len(), 4);
    assert_eq!(audited[0]["envelope"]["event"]["format"], "BUNDLE");
    // Developers export nothing.
    let request = pb::ExportEntriesRequest::default();
    let refused = ledger.export_as(&world.developer, request).await.unwrap_err();
    assert_eq!(crate::raw::reason(&refused), "MISSING_PERMISSION");
    suite.finish().await;
}

/// An export that was interrupted goes on behind the last chunk; together the parts are the whole. A filter
/// narrows it, and each entry is still proven.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_goes_on_where_it_was_interrupted() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    for n in 0..230 {
        world.team(&format!("crew {n}"), &[]).await;
    }
    ledger.head(&suite).await;
    let request = |cursor: &str| pb::ExportEntriesRequest {
        format: ExportFormat::Bundle.into(),
        cursor: cursor.to_owned(),
        ..Default::default()
    };
    let (whole, cursors) = ledger.export_as(&world.owner, request("")).await.unwrap();
    assert_eq!(cursors.len(), 2);
    let (rest, _) = ledger.export_as(&world.owner, request(&cursors[0])).await.unwrap();
    let begun = &whole[..whole.len() - rest.len()];
    assert_eq!([begun, &rest].concat(), whole, "the same head, also after new entries");
    ledger.verify(&whole).unwrap();
    let cut = ledger.verify(begun).unwrap_err();
    assert!(matches!(cut, Refused::Malformed(_)), "{cut}");
    let forged = ledger.export_as(&world.owner, request("AAAA")).await.unwrap_err();
    assert_eq!(crate::raw::reason(&forged), "INVALID_PAGE_TOKEN");

    let filter = pb::EntryFilter { action: "project.*".to_owned(), ..Default::default() };
    let request = pb::ExportEntriesRequest { filter: Some(filter), ..request("") };
    let (some, _) = ledger.export_as(&world.owner, request).await.unwrap();
    let report = ledger.verify(&some).unwrap();
    assert!(!report.whole && report.entries > 0);
    suite.finish().await;
}

/// A-16, I-24: who is erased is forgotten: names and addresses are gone from lists, exports and bundles, no
/// key opens them, and every proof of before and after still verifies. The log says that it happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_erased_and_every_proof_still_verifies() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    let developer = &world.developer;
    let create =
        world.here(json!({ "name": "Shop 2", "repositoryUrl": "https://git.example.com/b.git" }));
    developer.tell("project.v1.ProjectService/CreateProject", create).await;
    let before = ledger.head(&suite).await;
    let created =
        ledger.find(json!({ "action": "project.created", "actorId": developer.user_id })).await;
    let event_id = created[0]["envelope"]["id"].as_str().unwrap().to_owned();
    let old = ledger.receipt(developer, &event_id).await;
    assert!(old.verify(&ledger.pins).unwrap().1.actor.contains("developer@example.com"));
    let old_bundle = ledger.export(ExportFormat::Bundle).await;
    assert!(!ledger.find(json!({ "text": "developer@example" })).await.is_empty());

    let confirm = json!({ "confirmEmail": "developer@example.com" });
    developer.tell("identity.v1.UserService/DeleteAccount", confirm).await;
    suite.logged().await;
    let erased = testkit::eventually("the tombstone", async || {
        let found = ledger.find(json!({ "action": "audit.person_erased" })).await;
        found.first().cloned()
    });
    assert_eq!(erased.await["envelope"]["event"]["userId"], developer.user_id.as_str());
    let after = ledger.head(&suite).await;
    assert!(after.size > before.size);
    // What was proven before is proven still; what it sealed opens no more, but for who kept a key.
    old.verify(&ledger.pins).unwrap();
    ledger.verify(&old_bundle).unwrap();
    let get = ledger.here(json!({ "eventId": event_id }));
    let new = world.owner.tell("audit.v1.LogService/GetInclusionProof", get).await;
    let new = verifier::receipt::Receipt::from_json(&new).unwrap();
    assert_eq!(new.leaf, old.leaf, "not a byte of the leaf has changed");
    assert!(new.keys.is_empty());
    assert_eq!(new.verify(&ledger.pins).unwrap().1.actor, "erased <erased>");
    let again =
        ledger.find(json!({ "action": "project.created", "actorId": developer.user_id })).await;
    assert_eq!(again[0]["envelope"]["actor"]["email"], "erased");
    assert!(ledger.find(json!({ "text": "developer@example" })).await.is_empty());
    for format in [ExportFormat::Json, ExportFormat::Csv, ExportFormat::Bundle, ExportFormat::Ocsf]
    {
        let file = ledger.export(format).await;
        let text = String::from_utf8(file.clone()).unwrap();
        assert!(!text.contains("developer@example.com"), "{format:?}");
        if format == ExportFormat::Bundle {
            let report = bundle::verify(&*file, &ledger.pins, |_| Some(before.size), |_| ());
            assert_eq!(report.unwrap().root_at, Some(before.root));
        }
    }
    // Nothing in the schema of the log tells the address any more.
    let left =
        "select (select count(*) from audit.entry where position('developer@'::bytea in leaf) > 0)
                     + (select count(*) from audit.term_name where name like '%developer@%')";
    assert_eq!(suite.count(left).await, 0);
    // Others are as they were.
    let others = ledger.find(json!({ "text": "viewer@example" })).await;
    assert!(!others.is_empty());
    suite.finish().await;
}
