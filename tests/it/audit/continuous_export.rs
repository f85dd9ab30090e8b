//! Continuous export to storage: a week read back and verified, outages, restarts and replicas, and who
//! manages sinks.

use std::collections::BTreeSet;

use api::identity::Plan;
use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Nats, Options, Process, S3Fault, eventually};

use crate::support::{
    exports::{ExportSetup, SINKS},
    storage::StorageSetup,
    world::{merge, text},
};

/// Longer than the longest wait of a part, and than the longest pause after a failed attempt.
const HOUR: Duration = Duration::hours(1);

/// a week of export is complete: each entry is there once, in the folder of its day, and together they
/// have the root of the signed checkpoint. Parquet has the same entries.
#[tokio::test(flavor = "multi_thread")]
async fn a_week_of_export_is_complete_and_verified_against_its_checkpoint() {
    let mut setup = ExportSetup::new(Options::default()).await;
    let sink = setup.create(json!({})).await;
    assert_eq!(sink["prefix"], "log");
    assert_eq!(sink["etag"], "1");
    for day in 0..7 {
        let size = setup.add_entries(3 + day).await;
        setup.suite().clock.advance(Duration::days(1));
        setup.log.owner = setup.log.owner.sign_in_again().await;
        setup.wait_for(&sink, size).await;
    }
    let shown = setup.get(&sink).await;
    assert_eq!(shown["lastError"], Value::Null);
    assert!(shown["lastExportTime"].is_string(), "{shown}");
    let exported = setup.exported();
    assert!(exported.days().len() >= 7, "{:?}", exported.days());
    let lines = exported.verify(&setup.log.pins);
    exported.verify_parquet(&lines);
    let actions: Vec<String> = lines.iter().map(|it| text(&it["entry"]["action"])).collect();
    assert_eq!(
        actions.iter().filter(|it| *it == "team.created").count(),
        3 + 4 + 5 + 6 + 7 + 8 + 9
    );
    assert_eq!(actions.iter().filter(|it| *it == "export_sink.created").count(), 1);
    setup.storage.suite.finish().await;
}

/// `tenantry verify` needs only the downloaded objects and the key of the log. It finds a missing part.
#[tokio::test(flavor = "multi_thread")]
async fn a_downloaded_export_is_verified_offline() {
    let setup = ExportSetup::new(Options::default()).await;
    let sink = setup.create(json!({})).await;
    for _ in 0..2 {
        let size = setup.add_entries(3).await;
        setup.suite().clock.advance(HOUR);
        setup.wait_for(&sink, size).await;
    }
    let keys = json!({});
    let keys = setup.log.owner.call_ok("audit.v1.LogService/GetVerifierKeys", keys).await;
    let key = text(&keys["verifierKeys"][0]);
    let folder = tempfile::tempdir().unwrap();
    let verify = || {
        let path = folder.path().to_str().unwrap();
        let output =
            Process::run("tenantry", &["verify", path, "--key", &key, "--org", &setup.log.org]);
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let exported = setup.exported();
    exported.download_to(folder.path());
    let (is_verified, text) = verify();
    assert!(is_verified && text.contains("complete: contains every entry"), "{text}");
    let parts: Vec<_> = exported.objects.keys().filter(|it| it.ends_with(".ndjson.gz")).collect();
    assert!(parts.len() >= 2, "{parts:?}");
    std::fs::remove_file(folder.path().join(parts[0])).unwrap();
    let (is_verified, text) = verify();
    assert!(!is_verified && text.contains("MISSING: entry 0"), "{text}");
    setup.storage.suite.finish().await;
}

/// while the storage is down, the log goes on, and the sink shows the error. Afterwards nothing is
/// missing or there twice, also after a restart in the middle of a part.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_storage_and_a_restart_lose_and_repeat_nothing() {
    let mut setup = ExportSetup::new(Options::default()).await;
    let sink = setup.create(json!({})).await;
    let size = setup.add_entries(3).await;
    setup.suite().clock.advance(HOUR);
    setup.wait_for(&sink, size).await;

    setup.storage.s3.set_fault(S3Fault::Full);
    setup.add_entries(4).await;
    setup.suite().clock.advance(HOUR);
    let failed = eventually("a failed attempt", async || {
        Some(setup.get(&sink).await).filter(|it| it["failureCount"].is_number())
    })
    .await;
    assert!(text(&failed["lastError"]).contains("XMinioStorageFull"), "{failed}");
    assert!(failed["nextAttemptTime"].is_string(), "{failed}");
    assert_eq!(failed["exportedSize"], size.to_string());
    setup.suite().clock.advance(Duration::days(1));
    setup.log.owner = setup.log.owner.sign_in_again().await;
    // The range of the part was decided before the failed attempt; later entries are in other parts.
    setup.add_entries(5).await;
    eventually("another failed attempt", async || {
        let sink = setup.get(&sink).await;
        sink["failureCount"].as_i64().filter(|it| *it >= 2)
    })
    .await;

    let setup = setup.restart(|stopped| stopped.s3.set_fault(S3Fault::None)).await;
    let size = setup.add_entries(2).await;
    setup.suite().clock.advance(HOUR);
    let shown = setup.wait_for(&sink, size).await;
    assert_eq!(shown["failureCount"], Value::Null, "{shown}");
    assert_eq!(shown["lastError"], Value::Null, "{shown}");
    let exported = setup.exported();
    let lines = exported.verify(&setup.log.pins);
    exported.verify_parquet(&lines);
    setup.storage.suite.finish().await;
}

/// AU-9: entries past the retention of the plan are exported as hashes, which make up the signed root.
#[tokio::test(flavor = "multi_thread")]
async fn entries_past_the_retention_are_exported_as_hashes() {
    let mut setup = ExportSetup::new(Options::default()).await;
    let hidden = setup.add_entries(3).await;
    setup.suite().clock.advance(Duration::days(10));
    setup.log.owner = setup.log.owner.sign_in_again().await;
    setup.log.owner.change_plan(&setup.log.org, Plan::Starter).await.unwrap();
    let sink = setup.create(json!({})).await;
    let size = setup.add_entries(2).await;
    setup.suite().clock.advance(HOUR);
    setup.wait_for(&sink, size).await;
    let exported = setup.exported();
    let lines = exported.verify(&setup.log.pins);
    exported.verify_parquet(&lines);
    let is_hash_only = |it: &&Value| it["leaf"].is_null() && it["entry"].is_null();
    assert_eq!(lines.iter().filter(is_hash_only).count() as u64, hidden);
    let part = format!("purged/part-0-{}.ndjson.gz", hidden - 1);
    assert!(exported.objects.contains_key(&part), "{:?}", exported.objects.keys());
    setup.storage.suite.finish().await;
}

/// of two replicas one exports to a sink: each object is written once.
#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_write_each_object_once() {
    let nats = Nats::start();
    let options = Options { nats_url: Some(nats.url()), ..Options::default() };
    let setup = ExportSetup::new(options).await;
    let replica = setup.suite().replica().await;
    let sink = setup.create(json!({})).await;
    for _ in 0..4 {
        let size = setup.add_entries(3).await;
        setup.suite().clock.advance(HOUR);
        setup.wait_for(&sink, size).await;
    }
    setup.exported().verify(&setup.log.pins);
    let written = setup.storage.s3.written();
    let parts: Vec<_> = written.iter().filter(|it| it.contains("/part-")).collect();
    let different: BTreeSet<_> = parts.iter().collect();
    assert!(parts.len() >= 8, "{parts:?}");
    assert_eq!(parts.len(), different.len(), "{parts:?}");
    replica.stop_replica().await;
    setup.storage.suite.finish().await;
}

/// A paused sink exports nothing, and continues where it stopped. Changes are in the log, and an outdated
/// change is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sink_exports_nothing_until_it_is_continued() {
    let setup = ExportSetup::new(Options::default()).await;
    let sink = setup.create(json!({ "formats": ["EXPORT_SINK_FORMAT_NDJSON"] })).await;
    let other = setup.create(json!({ "name": "Other", "prefix": "" })).await;
    assert_eq!(other["prefix"], format!("audit-log/{}", text(&other["id"])));
    let paused = setup.update(&sink, json!({ "paused": true }), "paused").await;
    assert_eq!((&paused["paused"], &paused["etag"]), (&json!(true), &json!("2")));
    let size = setup.add_entries(3).await;
    setup.suite().clock.advance(HOUR);
    setup.wait_for(&other, size).await;
    assert!(setup.exported().objects.is_empty(), "a paused sink exports nothing");
    let outdated = json!({
        "exportSinkId": sink["id"], "paused": false, "updateMask": "paused", "etag": sink["etag"]
    });
    assert_eq!(setup.refusal("UpdateExportSink", outdated).await.reason, "CONFLICT");
    setup.update(&sink, json!({ "paused": false }), "paused").await;
    setup.wait_for(&sink, size).await;
    setup.exported().verify(&setup.log.pins);
    for (action, count) in [("created", 2), ("updated", 2)] {
        let action = format!("export_sink.{action}");
        assert_eq!(setup.suite().count_entries(&action).await, count, "{action}");
    }
    setup.storage.suite.finish().await;
}

/// PL-27: a connection that a sink uses is not deleted, and the refusal has the name of the sink. A deleted
/// sink does not use it any more, nor does one whose creation was refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_a_sink_is_not_deleted() {
    let setup = ExportSetup::new(Options::default()).await;
    let sink = setup.create(json!({})).await;
    let same = setup.refusal("CreateExportSink", setup.fields(json!({ "name": "Same" }))).await;
    assert!(same.message.contains("prefix"), "{same}");
    let connection = json!({ "storageConnectionId": setup.connection["id"] });
    let refusal = setup.storage.refusal("DeleteStorageConnection", connection.clone()).await;
    assert_eq!(refusal.reason, "CONNECTION_IN_USE", "{refusal}");
    assert!(refusal.message.contains("Archive of the log"), "{refusal}");
    assert!(!refusal.message.contains("Same"), "{refusal}");
    setup.update(&sink, json!({ "name": "Vault" }), "name").await;
    let refusal = setup.storage.refusal("DeleteStorageConnection", connection.clone()).await;
    assert!(refusal.message.contains("Vault"), "{refusal}");
    setup.call("DeleteExportSink", json!({ "exportSinkId": sink["id"] })).await;
    setup.storage.call("DeleteStorageConnection", connection).await;
    let missing = setup.refusal("CreateExportSink", setup.fields(json!({}))).await;
    assert_eq!(missing.reason, "NOT_FOUND", "the connection was deleted: {missing}");
    setup.suite().wait_for_log().await;
    assert_eq!(setup.suite().count("select count(*) from audit.export_storage_use").await, 0);
    assert_eq!(setup.suite().count_entries("export_sink.deleted").await, 1);
    setup.storage.suite.finish().await;
}

/// Registrations that a crash left over, between the registration and the creation, or after a deletion, are
/// removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_registration_without_a_sink_is_removed() {
    let setup = ExportSetup::new(Options::default()).await;
    let sink = setup.create(json!({})).await;
    // As if the process had ended before the removal of the registration.
    sqlx::query("delete from audit.export_sink").execute(&setup.suite().pool).await.unwrap();
    let connection = json!({ "storageConnectionId": setup.connection["id"] });
    let refusal = setup.storage.refusal("DeleteStorageConnection", connection.clone()).await;
    assert_eq!(refusal.reason, "CONNECTION_IN_USE", "{refusal}");
    assert_eq!(
        setup.refusal("GetExportSink", json!({ "exportSinkId": sink["id"] })).await.reason,
        "NOT_FOUND"
    );
    setup.suite().clock.advance(HOUR);
    let setup = setup.restart(|_| ()).await;
    eventually("the removal of the registration", async || {
        let uses = "select count(*) from audit.export_storage_use";
        (setup.suite().count(uses).await == 0).then_some(())
    })
    .await;
    let admin = &setup.storage.world.owner;
    let delete = setup.log.org_request(connection);
    admin.call_ok("project.v1.StorageConnectionService/DeleteStorageConnection", delete).await;
    setup.storage.suite.finish().await;
}

/// AU-7: only those who may export the log manage sinks; another organization neither sees them nor uses its
/// connections.
#[tokio::test(flavor = "multi_thread")]
async fn members_without_the_permission_manage_no_sinks() {
    let setup = ExportSetup::new(Options::default()).await;
    let sink = setup.create(json!({})).await;
    let named = json!({ "exportSinkId": sink["id"] });
    let change = merge(named.clone(), json!({ "paused": true, "updateMask": "paused" }));
    let calls = [
        ("CreateExportSink", setup.fields(json!({ "prefix": "mine" }))),
        ("GetExportSink", named.clone()),
        ("ListExportSinks", json!({})),
        ("UpdateExportSink", change),
        ("DeleteExportSink", named),
    ];
    let stranger = setup.suite().person("stranger@example.com").await;
    let other_org = stranger.create_organization("other").await.unwrap();
    for (method, fields) in calls {
        let request = setup.log.org_request(fields.clone());
        let method = format!("{SINKS}/{method}");
        let StorageSetup { world, .. } = &setup.storage;
        for person in [&world.developer, &world.viewer] {
            assert_eq!(
                person.call_err(&method, request.clone()).await,
                "MISSING_PERMISSION",
                "{method}"
            );
        }
        assert_eq!(stranger.call_err(&method, request).await, "NOT_FOUND", "{method}");
        if !method.ends_with("ListExportSinks") {
            let own = merge(fields, json!({ "orgId": other_org }));
            assert_eq!(stranger.call_err(&method, own).await, "NOT_FOUND", "{method}");
        }
    }
    assert_eq!(setup.get(&sink).await["paused"], Value::Null);
    setup.storage.suite.finish().await;
}

/// The sinks of a purged organization are deleted.
#[tokio::test(flavor = "multi_thread")]
async fn the_sinks_of_a_purged_organization_are_deleted() {
    let setup = ExportSetup::new(Options::default()).await;
    setup.create(json!({})).await;
    let delete = setup.log.org_request(json!({ "confirmName": "acme", "cascade": true }));
    setup.log.owner.call_ok("identity.v1.OrganizationService/DeleteOrganization", delete).await;
    setup.suite().wait_for_log().await;
    setup.suite().clock.advance(Duration::days(31));
    for table in ["export_sink", "export_storage_use"] {
        let rows = format!("select count(*) from audit.{table}");
        eventually("the deletion of the sinks", async || {
            let count = setup.suite().count(sqlx::AssertSqlSafe(rows.clone())).await;
            (count == 0).then_some(())
        })
        .await;
    }
    setup.storage.suite.finish().await;
}
