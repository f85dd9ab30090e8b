//! Changes of the log by a superuser: detection by `fsck`, by clients with an older checkpoint, and by the
//! signer; no false alarms.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use api::audit::{ExportEntriesRequest, ExportFormat};
use serde_json::json;
use testkit::{Suite, eventually};

use crate::support::{
    audit_client::AuditClient,
    raw,
    tampering::{back_up, restore, tamper},
    world::World,
};

/// A-10, AU-3, G-10: triggers reject every change, also with `session_replication_role = replica`.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_refuses_to_change_the_log() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    ann.create_organization("acme").await.unwrap();
    suite.wait_for_log().await;
    for role in ["origin", "replica"] {
        for change in [
            "update audit.entry set leaf = ''",
            "delete from audit.entry",
            "update audit.tile set hashes = ''",
            "delete from audit.checkpoint",
            "truncate audit.checkpoint",
            "truncate audit.tile cascade",
        ] {
            let mut tx = suite.pool.begin().await.unwrap();
            let set = format!("set local session_replication_role = {role}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&mut *tx).await.unwrap();
            let filled = "insert into audit.tile select number, 0, 99, '' from audit.tree limit 1";
            sqlx::raw_sql(filled).execute(&mut *tx).await.unwrap();
            let error = sqlx::raw_sql(change).execute(&mut *tx).await.unwrap_err().to_string();
            assert!(error.contains("the audit log is append-only"), "{change}: {error}");
        }
    }
    let entries = "select relname from pg_inherits join pg_class on pg_class.oid = inhrelid
                   where inhparent = 'audit.entry'::regclass";
    let month: String = sqlx::query_scalar(entries).fetch_one(&suite.pool).await.unwrap();
    let truncate = sqlx::AssertSqlSafe(format!("truncate audit.{month}"));
    let error = sqlx::raw_sql(truncate).execute(&suite.pool).await.unwrap_err().to_string();
    assert!(error.contains("append-only"), "{error}");
    suite.finish().await;
}

/// Changes of a superuser in one tree: name, statement, and the finding of `fsck`.
fn changes(org: &str) -> [(&'static str, String, &'static str); 8] {
    [
        (
            "one bit of an entry",
            format!("update audit.entry set leaf = set_byte(leaf, 9, get_byte(leaf, 9) # 1)
                     where tree = {org} and index = 7"),
            "entry 7 was changed",
        ),
        (
            "an entry is deleted",
            format!("delete from audit.entry where tree = {org} and index = 5"),
            "entry 5 is missing",
        ),
        (
            "an entry is added",
            format!("insert into audit.entry (tree, actor, resource, type, action, index, received_at,
                         event_id,
                         outcome, flags, leaf)
                     select tree, actor, resource, type, action, 100000, received_at, gen_random_uuid(),
                         outcome, flags, leaf
                     from audit.entry where tree = {org} and index = 3"),
            "entry 100000 was added",
        ),
        (
            "two entries change places",
            format!("update audit.entry set index = -1 where tree = {org} and index = 8;
                     update audit.entry set index = 8 where tree = {org} and index = 9;
                     update audit.entry set index = 9 where tree = {org} and index = -1"),
            "entry 8 was changed",
        ),
        (
            "an entry is shown as somebody else's",
            format!("update audit.entry set actor = (select min(number) from audit.term where kind = 1
                         and tree = {org} and number <> actor) where tree = {org} and index = 6"),
            "entry 6: its index terms do not match its leaf",
        ),
        (
            "a hash of the tree",
            format!("update audit.tile set hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1)
                     where tree = {org} and level = 0 and index = 0"),
            "tile 0 of level 0 was changed",
        ),
        (
            "the end is cut",
            format!("delete from audit.entry where tree = {org} and index >= 18;
                     update audit.tree set size = 18, signed = 0 where number = {org}"),
            "the hashes at the right edge of the tree were changed",
        ),
        (
            "a signed head",
            format!("update audit.checkpoint set leaf = replace(leaf, 'audit/', 'Audit/')
                     where index = (select min(index) from audit.checkpoint where tree = {org})"),
            "suite tree",
        ),
    ]
}

/// G-10, A-09, A-11: `fsck` finds and names each change; it finds nothing before the changes and after they
/// are reverted.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_a_superuser_is_detected() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    for n in 0..20 {
        world.create_team(&format!("crew {n}"), &[]).await;
    }
    let head = log.checkpoint(&suite).await;
    let clean = suite.fsck().await;
    assert!(clean.differences.is_empty(), "{clean}");
    assert!(clean.checkpoints > 3 && clean.entries > 20);
    let org = format!("(select number from audit.tree where org_id = '{}')", world.org);
    for (name, change, finding) in changes(&org) {
        back_up(&suite.pool).await;
        tamper(&suite.pool, &[&change]).await;
        let found = suite.fsck().await;
        assert!(found.differences.iter().any(|it| it.contains(finding)), "{name}: {found}");
        restore(&suite.pool).await;
    }
    // The running suite has put the log into quarantine when its end was cut.
    let restored = suite.fsck_and_release().await;
    assert!(restored.differences.is_empty(), "restored: {restored}");
    assert_eq!(log.checkpoint(&suite).await.root, head.root);
    suite.finish().await;
}

/// Statements that change entry 3 of a tree together with its leaf hash.
fn rewrite_entry(tree: &str) -> String {
    format!(
        "update audit.entry set leaf = leaf || '\\x6200'::bytea where tree = {tree} and index = 3;
         update audit.tile set hashes = overlay(hashes placing
             (select sha256('\\x00'::bytea || leaf) from audit.entry where tree = {tree} and index = 3)
             from 97 for 32)
         where tree = {tree} and level = 0 and index = 0"
    )
}

/// G-10: a log whose signed entries were changed together with their hashes is not exported, not
/// proven and not signed any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_log_is_not_signed() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    for n in 0..20 {
        world.create_team(&format!("crew {n}"), &[]).await;
    }
    let head = log.checkpoint(&suite).await;
    let tree = format!("(select number from audit.tree where org_id = '{}')", world.org);
    tamper(&suite.pool, &[&rewrite_entry(&tree)]).await;
    let bundle = ExportEntriesRequest { format: ExportFormat::Bundle.into(), ..Default::default() };
    let refused = log.export_as(&world.owner, bundle).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::DataLoss);
    assert_eq!(raw::reason(&refused), "LOG_CORRUPTED");
    world.create_team("after", &[]).await;
    // A checkpoint of another log: the signer has run since.
    let other = suite.person("other@example.com").await;
    let other_org = other.create_organization("other").await.unwrap();
    let other_log = AuditClient::new(&suite, &other, &other_org).await;
    eventually("a checkpoint of another log", async || {
        other_log.newest_checkpoint().await.filter(|it| it.size > 0)
    })
    .await;
    for (method, request) in [
        ("audit.v1.LogService/GetCheckpoint", json!({})),
        ("audit.v1.AuditService/ListEntries", json!({})),
    ] {
        let reason = world.owner.call_err(method, log.org_request(request)).await;
        assert_eq!(reason, "LOG_CORRUPTED", "{method}");
    }
    let newest = format!("select max(size) from audit.checkpoint where tree = {tree}");
    let newest: i64 =
        sqlx::query_scalar(sqlx::AssertSqlSafe(newest)).fetch_one(&suite.pool).await.unwrap();
    assert!(newest <= head.size.cast_signed() + 1, "the entry of the export is signed at most");
    let found = suite.fsck().await.to_string();
    assert!(found.contains("does not match the entries"), "{found}");
    suite.stop_unchecked().await;
}

/// A-19, G-22: a running suite does not serve a database that was replaced by an older copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_suite_does_not_read_a_restored_backup() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    log.checkpoint(&suite).await;
    back_up(&suite.pool).await;
    world.create_team("lost", &[]).await;
    log.checkpoint(&suite).await;
    let lost = log.entries(json!({ "action": "team.created" })).await;
    restore(&suite.pool).await;
    let event_id = lost[0]["envelope"]["id"].clone();
    for (method, request) in [
        ("audit.v1.AuditService/ListEntries", json!({})),
        ("audit.v1.LogService/GetCheckpoint", json!({})),
        ("audit.v1.LogService/GetInclusionProof", json!({ "eventId": event_id })),
        ("audit.v1.LogService/GetConsistencyProof", json!({ "fromSize": 1 })),
    ] {
        let reason = world.owner.call_err(method, log.org_request(request)).await;
        let is_refused =
            ["LOG_CORRUPTED", "SIGNING_STOPPED", "NOT_FOUND"].contains(&reason.as_str());
        assert!(is_refused, "{method}: {reason}");
    }
    let list = log.org_request(json!({}));
    let reason = world.owner.call_err("audit.v1.AuditService/ListEntries", list).await;
    assert_eq!(reason, "LOG_CORRUPTED");
    suite.stop_unchecked().await;
}

/// a check beside a running suite reports no difference, although entries are appended meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_beside_a_running_suite_finds_nothing() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let stop = AtomicBool::new(false);
    let write = async || {
        while !stop.load(Ordering::Relaxed) {
            world.create_team(&chassis::id::new().to_string(), &[]).await;
        }
    };
    let check = async || {
        let mut entries = vec![];
        for _ in 0..10 {
            let found = suite.fsck().await;
            assert!(found.differences.is_empty(), "{found}");
            entries.push(found.entries);
        }
        stop.store(true, Ordering::Relaxed);
        entries
    };
    let (entries, ..) = tokio::join!(check(), write(), write(), write());
    assert!(entries.first() < entries.last(), "entries were appended meanwhile: {entries:?}");
    suite.finish().await;
}

/// A-04, G-22: the suite does not start on a database that is older than the journal of the signer.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_rejected_at_the_start() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    back_up(&suite.pool).await;
    world.create_team("lost", &[]).await;
    let size = log.checkpoint(&suite).await.size;
    let journal = suite.data_dir().join("audit.signed");
    let before = std::fs::read_to_string(&journal).unwrap();
    let error = suite.restart_error(async |pool| restore(pool).await).await;
    assert!(error.contains("the database is older than what was signed"), "{error}");
    assert!(error.contains(&format!("of {size} entries")) && error.contains("--audit-origin"));
    assert!(before.lines().count() > 2);
}

/// The journal of the signer is a private file outside of the database with every signed checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn the_signer_keeps_a_journal_outside_the_database() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let log = AuditClient::new(&suite, &ann, &org).await;
    let head = log.checkpoint(&suite).await;
    let journal = suite.data_dir().join("audit.signed");
    eventually("the checkpoint in the journal", async || {
        let text = std::fs::read_to_string(&journal).ok()?;
        text.contains(&format!("{org} {} ", head.size)).then_some(())
    })
    .await;
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&Path::metadata(&journal).unwrap().permissions());
    assert_eq!(mode & 0o077, 0);
    suite.finish().await;
}
