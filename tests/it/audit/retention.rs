//! Retention of audit entries: display period of the plan, purge, and legal hold.

use api::{audit::ExportFormat, identity::Plan};
use chassis::clock::Duration;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use testkit::{Suite, eventually};

use crate::support::{audit_client::AuditClient, world::World};

/// Checks that the proofs of a hidden entry are not available either.
async fn assert_not_proven(owner: &testkit::Person, request: &serde_json::Value) {
    let proof = owner.call_err("audit.v1.LogService/GetInclusionProof", request.clone()).await;
    let receipt = json!({ "eventId": request["eventId"] });
    let receipt = owner.call_err("audit.v1.LogService/GetReceipt", receipt).await;
    assert_eq!((proof.as_str(), receipt.as_str()), ("NOT_FOUND", "NOT_FOUND"));
}

/// AU-9, AU-10, AU-11, A-17: the plan limits the displayed days; entries hidden for 30 days are purged, and
/// the purge is logged; the hashes stay, so that a bundle still proves the whole log.
#[tokio::test(flavor = "multi_thread")]
async fn the_plan_limits_displayed_days_and_the_purge_keeps_hashes() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let days = async |owner: &testkit::Person| {
        owner.call_ok("audit.v1.AuditService/GetRetention", world.org_request(json!({}))).await["days"]
            .clone()
    };
    suite.wait_for_log().await;
    assert_eq!(days(&world.owner).await, 30);
    let shown = log.entries(json!({})).await.len();
    assert!(shown > 5);
    suite.clock.advance(Duration::days(10));
    let owner = world.owner.sign_in_again().await;
    let log = AuditClient { owner: owner.clone(), ..log };
    let all = log.entries(json!({})).await;
    assert_eq!(all.len(), shown);
    let first = all[shown - 1]["envelope"]["id"].as_str().unwrap().to_owned();
    // A smaller plan hides entries at once, a larger one shows them again.
    owner.change_plan(&world.org, Plan::Starter).await.unwrap();
    suite.wait_for_log().await;
    assert_eq!(days(&owner).await, 7);
    assert_eq!(log.entries(json!({})).await.len(), 1, "only the change of plan");
    let prove = world.org_request(json!({ "eventId": first }));
    assert_not_proven(&owner, &prove).await;
    owner.change_plan(&world.org, Plan::Pro).await.unwrap();
    suite.wait_for_log().await;
    owner.call_ok("audit.v1.LogService/GetInclusionProof", prove).await;
    assert_eq!(log.entries(json!({})).await.len(), shown + 2);

    let head = log.checkpoint(&suite).await;
    // A legal hold prevents the purge and does not change the displayed days.
    let hold = world.org_request(json!({ "held": true, "note": "case 12" }));
    owner.call_ok("audit.v1.AuditService/SetLegalHold", hold.clone()).await;
    owner.call_ok("audit.v1.AuditService/SetLegalHold", hold).await;
    suite.wait_for_log().await;
    assert_eq!(suite.count_entries("audit.legal_hold_changed").await, 1);
    suite.clock.advance(Duration::days(100));
    let owner = owner.sign_in_again().await;
    let suite = suite.restart(async |_| {}).await;
    let owner = testkit::Person { client: suite.client.with_token(&owner.token), ..owner };
    let log = AuditClient::new(&suite, &owner, &world.org).await;
    assert!(log.entries(json!({})).await.is_empty());
    let kept = "select count(*) from audit.entry join audit.tree on number = entry.tree where held";
    assert!(suite.count(kept).await > 5);
    // The purge runs after the end of the hold.
    let admin = testkit::Person {
        client: suite.client.with_token(&world.admin.token),
        ..world.admin.clone()
    };
    let admin = admin.sign_in_again().await;
    let release = world.org_request(json!({ "held": false }));
    let reason = admin.call_err("audit.v1.AuditService/SetLegalHold", release.clone()).await;
    assert_eq!(reason, "MISSING_PERMISSION", "only the Owner");
    owner.call_ok("audit.v1.AuditService/SetLegalHold", release).await;
    suite.wait_for_log().await;
    let suite = suite.restart(async |_| {}).await;
    let owner = testkit::Person { client: suite.client.with_token(&owner.token), ..owner };
    let log = AuditClient::new(&suite, &owner, &world.org).await;
    eventually("the purge", async || {
        (suite.count_entries("audit.entries_purged").await >= 1).then_some(())
    })
    .await;
    let purged = log.entries(json!({ "action": "audit.entries_purged" })).await;
    let count = |it: &serde_json::Value| {
        it["envelope"]["event"]["count"].as_str().unwrap().parse::<i64>().unwrap()
    };
    assert!(purged.iter().map(count).sum::<i64>() > 5);

    let newest = log.checkpoint(&suite).await;
    let file = log.export(ExportFormat::Bundle).await;
    let report = verifier::bundle::verify(&*file, &log.pins, |_| Some(head.size), |_| ());
    let report = report.unwrap();
    assert!(
        report.complete && report.hash_only >= head.size && report.checkpoint.size >= newest.size
    );
    assert_eq!(report.root_at_prior_size, Some(head.root), "the earlier checkpoint is proven");
    let found = suite.fsck().await;
    assert!(found.differences.is_empty(), "{found}");
    suite.finish().await;
}

/// A purge conflicts neither with readers nor with ingestion: while a backup reads the log, entries are
/// purged and added.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_blocks_neither_purge_nor_ingestion() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    suite.wait_for_log().await;
    suite.clock.advance(Duration::days(100));
    let mut backup = PgConnection::connect(&suite.database_url()).await.unwrap();
    // An empty partition of an old month.
    sqlx::query("select audit.open_month('2020-01-01')").execute(&suite.pool).await.unwrap();
    let mut backup_tx = backup.begin().await.unwrap();
    let read = "select count(*) from audit.entry";
    sqlx::query(read).execute(&mut *backup_tx).await.unwrap();

    let suite = suite.restart(async |_| {}).await;
    let kept = "select count(*) from audit.entry join audit.tree on number = entry.tree
                where index < purged_before";
    eventually("the purge", async || {
        (suite.count_entries("audit.entries_purged").await >= 1 && suite.count(kept).await == 0)
            .then_some(())
    })
    .await;
    let owner = testkit::Person {
        client: suite.client.with_token(&world.owner.token),
        ..world.owner.clone()
    };
    let owner = owner.sign_in_again().await;
    owner.create_organization("second").await.unwrap();
    suite.wait_for_log().await;
    let months = "select count(*) from pg_inherits where inhparent = 'audit.entry'::regclass";
    assert_eq!(suite.count(months).await, 3, "the backup locks the partition");
    backup_tx.rollback().await.unwrap();
    backup.close().await.unwrap();
    let suite = suite.restart(async |_| {}).await;
    eventually("the drop of the empty partition", async || {
        (suite.count(months).await == 2).then_some(())
    })
    .await;
    let found = suite.fsck().await;
    assert!(found.differences.is_empty(), "{found}");
    suite.finish().await;
}
