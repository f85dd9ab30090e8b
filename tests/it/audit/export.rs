//! Exports of the audit log, their resumption, and erased people in exports and proofs.

use api::audit::{self as pb, ExportFormat};
use serde_json::{Value, json};
use testkit::Suite;
use verifier::{VerifyError, bundle};

use crate::support::{audit_client::AuditClient, raw, world::World};

/// Lines of a JSON Lines file.
fn lines(file: &[u8]) -> Vec<Value> {
    let text = str::from_utf8(file).unwrap();
    text.lines().map(|it| serde_json::from_str(it).unwrap()).collect()
}

/// A-18, AU-5, AU-14, G-11: each format has every entry; a bundle proves that none is changed or missing;
/// exports are logged.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_every_entry_and_is_logged() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    world.create_team("=cmd|' /C calc'!A0", &[]).await;
    let head = log.checkpoint(&suite).await;
    let all = log.entries(json!({})).await.len();
    let json = lines(&log.export(ExportFormat::Json).await);
    assert_eq!(json.len(), all);
    assert!(
        json[0]["index"].is_null() && json[0]["action"] == "organization.created",
        "oldest first"
    );
    let ocsf = lines(&log.export(ExportFormat::Ocsf).await);
    assert!(ocsf.iter().all(|it| it["class_uid"] == 6003));
    let csv = String::from_utf8(log.export(ExportFormat::Csv).await).unwrap();
    assert!(csv.starts_with("\u{feff}index,receive_time,"), "a byte order mark");
    // AU-15: a name that is a spreadsheet formula is escaped.
    assert!(csv.contains("'=cmd|"), "{csv}");
    assert!(!csv.contains(",=cmd|"));

    log.checkpoint(&suite).await;
    let file = log.export(ExportFormat::Bundle).await;
    let mut proven = vec![];
    let report = bundle::verify(
        &*file,
        &log.pins,
        |_| Some(head.size),
        |it| {
            proven.push(it.clone());
        },
    );
    let report = report.unwrap();
    assert!(report.complete && report.hash_only == 0 && report.entries >= head.size);
    assert_eq!(report.root_at_prior_size, Some(head.root), "it continues the earlier checkpoint");
    assert_eq!(report.sources["identity"].first, 1);
    assert!(report.suite.is_some());
    let exported = proven.iter().filter(|it| it.event.ends_with("EntriesExported")).count();
    assert_eq!(exported, 3);
    // One changed byte: the verifier names the entry.
    let mut changed = lines(&file);
    let mut leaf = changed[4]["leaf"].as_str().unwrap().to_owned().into_bytes();
    leaf[40] = if leaf[40] == b'A' { b'B' } else { b'A' };
    changed[4]["leaf"] = String::from_utf8(leaf).unwrap().into();
    let changed: String = changed.iter().map(|it| format!("{it}\n")).collect();
    assert_eq!(log.verify(changed.as_bytes()), Err(VerifyError::Changed { index: 3 }));
    suite.wait_for_log().await;
    let audited = log.entries(json!({ "action": "audit.entries_exported" })).await;
    assert_eq!(audited.len(), 4);
    assert_eq!(audited[0]["envelope"]["event"]["format"], "BUNDLE");
    // Developers may not export.
    let request = pb::ExportEntriesRequest::default();
    let status = log.export_as(&world.developer, request).await.unwrap_err();
    assert_eq!(raw::reason(&status), "MISSING_PERMISSION");
    suite.finish().await;
}

/// An interrupted export resumes after its last chunk with the same result; entries of a filtered export are
/// proven too.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_export_resumes() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    for n in 0..230 {
        world.create_team(&format!("crew {n}"), &[]).await;
    }
    log.checkpoint(&suite).await;
    let request = |cursor: &str| pb::ExportEntriesRequest {
        format: ExportFormat::Bundle.into(),
        cursor: cursor.to_owned(),
        ..Default::default()
    };
    let (whole, cursors) = log.export_as(&world.owner, request("")).await.unwrap();
    assert_eq!(cursors.len(), 2);
    let (rest, _) = log.export_as(&world.owner, request(&cursors[0])).await.unwrap();
    let first_part = &whole[..whole.len() - rest.len()];
    assert_eq!([first_part, &rest].concat(), whole, "the checkpoint of the first part");
    log.verify(&whole).unwrap();
    let cut = log.verify(first_part).unwrap_err();
    assert!(matches!(cut, VerifyError::Malformed(_)), "{cut}");
    let forged = log.export_as(&world.owner, request("AAAA")).await.unwrap_err();
    assert_eq!(raw::reason(&forged), "INVALID_PAGE_TOKEN");

    let filter = pb::EntryFilter { action: "project.*".to_owned(), ..Default::default() };
    let request = pb::ExportEntriesRequest { filter: Some(filter), ..request("") };
    let (filtered, _) = log.export_as(&world.owner, request).await.unwrap();
    let report = log.verify(&filtered).unwrap();
    assert!(!report.complete && report.entries > 0);
    suite.finish().await;
}

/// A-16, I-24: after an erasure names and addresses are in no list, export or bundle, and their key is
/// deleted; earlier and later proofs verify; the erasure is logged.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_erased_and_every_proof_still_verifies() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let developer = &world.developer;
    let create = world
        .org_request(json!({ "name": "Shop 2", "repositoryUrl": "https://git.example.com/b.git" }));
    developer.call_ok("project.v1.ProjectService/CreateProject", create).await;
    let before = log.checkpoint(&suite).await;
    let created =
        log.entries(json!({ "action": "project.created", "actorId": developer.user_id })).await;
    let event_id = created[0]["envelope"]["id"].as_str().unwrap().to_owned();
    let old_receipt = log.receipt(developer, &event_id).await;
    assert!(old_receipt.verify(&log.pins).unwrap().1.actor.contains("developer@example.com"));
    let old_bundle = log.export(ExportFormat::Bundle).await;
    assert!(!log.entries(json!({ "text": "developer@example" })).await.is_empty());

    let confirm = json!({ "confirmEmail": "developer@example.com" });
    developer.call_ok("identity.v1.UserService/DeleteAccount", confirm).await;
    suite.wait_for_log().await;
    let erased = testkit::eventually("the erasure", async || {
        let found = log.entries(json!({ "action": "audit.person_erased" })).await;
        found.first().cloned()
    });
    assert_eq!(erased.await["envelope"]["event"]["userId"], developer.user_id.as_str());
    let after = log.checkpoint(&suite).await;
    assert!(after.size > before.size);
    // Earlier proofs still verify; without the key the personal data in them is unreadable.
    old_receipt.verify(&log.pins).unwrap();
    log.verify(&old_bundle).unwrap();
    let get = log.org_request(json!({ "eventId": event_id }));
    let proof = world.owner.call_ok("audit.v1.LogService/GetInclusionProof", get).await;
    let new_receipt = verifier::receipt::Receipt::from_json(&proof).unwrap();
    assert_eq!(new_receipt.leaf, old_receipt.leaf, "the leaf has not changed");
    assert!(new_receipt.keys.is_empty());
    assert_eq!(new_receipt.verify(&log.pins).unwrap().1.actor, "erased <erased>");
    let listed =
        log.entries(json!({ "action": "project.created", "actorId": developer.user_id })).await;
    assert_eq!(listed[0]["envelope"]["actor"]["email"], "erased");
    assert!(log.entries(json!({ "text": "developer@example" })).await.is_empty());
    for format in [ExportFormat::Json, ExportFormat::Csv, ExportFormat::Bundle, ExportFormat::Ocsf]
    {
        let file = log.export(format).await;
        let text = String::from_utf8(file.clone()).unwrap();
        assert!(!text.contains("developer@example.com"), "{format:?}");
        if format == ExportFormat::Bundle {
            let report = bundle::verify(&*file, &log.pins, |_| Some(before.size), |_| ());
            assert_eq!(report.unwrap().root_at_prior_size, Some(before.root));
        }
    }
    // No table of the log has the address.
    let addresses =
        "select (select count(*) from audit.entry where position('developer@'::bytea in leaf) > 0)
                     + (select count(*) from audit.term_name where name like '%developer@%')";
    assert_eq!(suite.count(addresses).await, 0);
    // Other people are not affected.
    let others = log.entries(json!({ "text": "viewer@example" })).await;
    assert!(!others.is_empty());
    suite.finish().await;
}
