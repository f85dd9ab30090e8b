//! How long entries are shown, kept and held.

use api::{audit::ExportFormat, identity::Plan};
use chassis::clock::Duration;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use testkit::{Suite, eventually};

use crate::{ledger::Ledger, world::World};

/// What is not shown is not told by its proof either.
async fn not_proven(owner: &testkit::Person, question: &serde_json::Value) {
    let proof = owner.refused("audit.v1.LogService/GetInclusionProof", question.clone()).await;
    let receipt = json!({ "eventId": question["eventId"] });
    let receipt = owner.refused("audit.v1.LogService/GetReceipt", receipt).await;
    assert_eq!((proof.as_str(), receipt.as_str()), ("NOT_FOUND", "NOT_FOUND"));
}

/// AU-9, AU-10, AU-11, A-17: a plan shows so many days, at once; what is hidden for thirty days is purged, a
/// month at a time; the hashes stay, so that a bundle still proves all of it; the log says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_shows_so_many_days_and_then_only_hashes_stay() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    let days = async |owner: &testkit::Person| {
        owner.tell("audit.v1.AuditService/GetRetention", world.here(json!({}))).await["days"]
            .clone()
    };
    suite.logged().await;
    assert_eq!(days(&world.owner).await, 30);
    let shown = ledger.find(json!({})).await.len();
    assert!(shown > 5);
    suite.clock.advance(Duration::days(10));
    let owner = world.owner.again().await;
    let ledger = Ledger { owner: owner.clone(), ..ledger };
    let all = ledger.find(json!({})).await;
    assert_eq!(all.len(), shown);
    let first = all[shown - 1]["envelope"]["id"].as_str().unwrap().to_owned();
    // A smaller plan hides at once; going back shows again.
    owner.change_plan(&world.org, Plan::Starter).await.unwrap();
    suite.logged().await;
    assert_eq!(days(&owner).await, 7);
    assert_eq!(ledger.find(json!({})).await.len(), 1, "only the change of plan");
    let prove = world.here(json!({ "eventId": first }));
    not_proven(&owner, &prove).await;
    owner.change_plan(&world.org, Plan::Pro).await.unwrap();
    suite.logged().await;
    owner.tell("audit.v1.LogService/GetInclusionProof", prove).await;
    assert_eq!(ledger.find(json!({})).await.len(), shown + 2);

    let head = ledger.head(&suite).await;
    // Held, nothing goes; but what is shown does not change.
    let hold = world.here(json!({ "held": true, "note": "case 12" }));
    owner.tell("audit.v1.AuditService/SetLegalHold", hold.clone()).await;
    owner.tell("audit.v1.AuditService/SetLegalHold", hold).await;
    suite.logged().await;
    assert_eq!(suite.told("audit.legal_hold_changed").await, 1);
    suite.clock.advance(Duration::days(100));
    let owner = owner.again().await;
    let suite = suite.restart(async |_| {}).await;
    let owner = testkit::Person { client: suite.client.with_token(&owner.token), ..owner };
    let ledger = Ledger::new(&suite, &owner, &world.org).await;
    assert!(ledger.find(json!({})).await.is_empty());
    let kept = "select count(*) from audit.entry join audit.tree on number = entry.tree where held";
    assert!(suite.count(kept).await > 5);
    // Let go, it is purged at the next look.
    let admin = testkit::Person {
        client: suite.client.with_token(&world.admin.token),
        ..world.admin.clone()
    };
    let admin = admin.again().await;
    let letting = world.here(json!({ "held": false }));
    let refused = admin.refused("audit.v1.AuditService/SetLegalHold", letting.clone()).await;
    assert_eq!(refused, "MISSING_PERMISSION", "only the Owner");
    owner.tell("audit.v1.AuditService/SetLegalHold", letting).await;
    suite.logged().await;
    let suite = suite.restart(async |_| {}).await;
    let owner = testkit::Person { client: suite.client.with_token(&owner.token), ..owner };
    let ledger = Ledger::new(&suite, &owner, &world.org).await;
    eventually("the purge", async || (suite.told("audit.purged").await >= 1).then_some(())).await;
    let purged = ledger.find(json!({ "action": "audit.purged" })).await;
    let count = |it: &serde_json::Value| {
        it["envelope"]["event"]["count"].as_str().unwrap().parse::<i64>().unwrap()
    };
    assert!(purged.iter().map(count).sum::<i64>() > 5);

    let now = ledger.head(&suite).await;
    let file = ledger.export(ExportFormat::Bundle).await;
    let report = verifier::bundle::verify(&*file, &ledger.pins, |_| Some(head.size), |_| ());
    let report = report.unwrap();
    assert!(report.whole && report.hidden >= head.size && report.head.size >= now.size);
    assert_eq!(report.root_at, Some(head.root), "what was seen before is what it was");
    let found = suite.fsck().await;
    assert!(found.differs.is_empty(), "{found}");
    suite.finish().await;
}

/// A purge takes no lock that a reader holds or ingestion needs: while a backup reads the whole log, entries
/// are purged and new ones come.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_and_new_entries_go_on_while_a_backup_reads_the_log() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    suite.logged().await;
    suite.clock.advance(Duration::days(100));
    let mut backup = PgConnection::connect(&suite.database_url()).await.unwrap();
    // A month of long ago that has no entries any more.
    sqlx::query("select audit.open_month('2020-01-01')").execute(&suite.pool).await.unwrap();
    let mut reading = backup.begin().await.unwrap();
    let read = "select count(*) from audit.entry";
    sqlx::query(read).execute(&mut *reading).await.unwrap();

    let suite = suite.restart(async |_| {}).await;
    let kept = "select count(*) from audit.entry join audit.tree on number = entry.tree
                where index < purged_before";
    eventually("the purge", async || {
        (suite.told("audit.purged").await >= 1 && suite.count(kept).await == 0).then_some(())
    })
    .await;
    let owner = testkit::Person {
        client: suite.client.with_token(&world.owner.token),
        ..world.owner.clone()
    };
    let owner = owner.again().await;
    owner.create_organization("second").await.unwrap();
    suite.logged().await;
    let months = "select count(*) from pg_inherits where inhparent = 'audit.entry'::regclass";
    assert_eq!(suite.count(months).await, 3, "the backup reads this month, too");
    reading.rollback().await.unwrap();
    backup.close().await.unwrap();
    let suite = suite.restart(async |_| {}).await;
    eventually("the empty month goes", async || (suite.count(months).await == 2).then_some(()))
        .await;
    let found = suite.fsck().await;
    assert!(found.differs.is_empty(), "{found}");
    suite.finish().await;
}
