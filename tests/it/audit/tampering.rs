//! Changes of the log by a superuser: detection by `fsck`, by clients with an older checkpoint, and by the
//! signer; no false alarms.

use std::path::Path;

use api::audit::ExportFormat;
use serde_json::json;
use sqlx::PgPool;
use testkit::{Suite, eventually};
use verifier::{VerifyError, note};

use crate::support::{audit_client::AuditClient, world::World};

/// Runs statements as a superuser with all triggers disabled.
async fn tamper(pool: &PgPool, statements: &[&'static str]) {
    let mut tx = pool.begin().await.unwrap();
    let off = "do $$ declare name text; begin
        for name in select relname from pg_class join pg_namespace on pg_namespace.oid = relnamespace
                    where nspname = 'audit' and relkind = 'r' loop
            execute format('alter table audit.%I disable trigger all', name);
        end loop; end $$";
    sqlx::raw_sql(off).execute(&mut *tx).await.unwrap();
    for statement in statements {
        sqlx::raw_sql(*statement).execute(&mut *tx).await.unwrap();
    }
    // The triggers of the log are enabled for all roles again.
    let on = sqlx::AssertSqlSafe(off.replace("disable trigger all", "enable trigger all"));
    sqlx::raw_sql(on).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

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
    let entries = "select relname from pg_inherits join pg_class on pg_class.oid = inhrelid";
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
        sqlx::raw_sql("create schema if not exists kept").execute(&suite.pool).await.unwrap();
        back_up(&suite.pool).await;
        tamper(&suite.pool, &[Box::leak(change.into_boxed_str())]).await;
        let found = suite.fsck().await;
        assert!(found.differences.iter().any(|it| it.contains(finding)), "{name}: {found}");
        restore(&suite.pool).await;
    }
    let restored = suite.fsck().await;
    assert!(restored.differences.is_empty(), "restored: {restored}");
    assert_eq!(log.checkpoint(&suite).await.root, head.root);
    suite.finish().await;
}

/// Copies the tables of the log.
async fn back_up(pool: &PgPool) {
    for table in ["entry", "tile", "tree", "checkpoint"] {
        let copy = format!("create table kept.{table} as select * from audit.{table}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(copy)).execute(pool).await.unwrap();
    }
}

/// Restores the copies.
async fn restore(pool: &PgPool) {
    tamper(
        pool,
        &[
            "delete from audit.entry; insert into audit.entry select * from kept.entry",
            "delete from audit.checkpoint; insert into audit.checkpoint select * from kept.checkpoint",
            "delete from audit.tile; insert into audit.tile select * from kept.tile",
            "update audit.tree set size = kept.tree.size, edge = kept.tree.edge, signed = kept.tree.signed
             from kept.tree where kept.tree.number = audit.tree.number",
            "drop table kept.entry, kept.tile, kept.tree, kept.checkpoint",
        ],
    )
    .await;
}

/// A-04, G-10: after a change of signed entries no new checkpoint is signed, while entries are still added; a
/// bundle or an older checkpoint shows the change.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_log_is_not_signed() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    for n in 0..20 {
        world.create_team(&format!("crew {n}"), &[]).await;
    }
    log.checkpoint(&suite).await;
    let org = format!("(select number from audit.tree where org_id = '{}')", world.org);
    // An entry together with its hash: the root does not match.
    let change = format!(
        "update audit.entry set leaf = leaf || '\\x6200'::bytea where tree = {org} and index = 3;
         update audit.tile set hashes = overlay(hashes placing
             (select sha256('\\x00'::bytea || leaf) from audit.entry where tree = {org} and index = 3)
             from 97 for 32)
         where tree = {org} and level = 0 and index = 0"
    );
    tamper(&suite.pool, &[Box::leak(change.into_boxed_str())]).await;
    let file = log.export(ExportFormat::Bundle).await;
    assert_eq!(log.verify(&file), Err(VerifyError::RootMismatch));
    // Also the hashes above it, up to the root.
    let change = format!(
        "update audit.tree set edge = set_byte(edge, size::int % 16 * 32, 1 + get_byte(edge, 0) % 7)
         where number = {org}"
    );
    let head = log.checkpoint(&suite).await;
    tamper(&suite.pool, &[Box::leak(change.into_boxed_str())]).await;
    world.create_team("after", &[]).await;
    suite.wait_for_log().await;
    // A checkpoint of another log: the signer has run since.
    let other = suite.person("other@example.com").await;
    let other_org = other.create_organization("other").await.unwrap();
    AuditClient::new(&suite, &other, &other_org).await.checkpoint(&suite).await;
    let newest =
        world.owner.call_ok("audit.v1.LogService/GetCheckpoint", log.org_request(json!({}))).await;
    let newest = note::open(newest["checkpoint"].as_str().unwrap(), &log.pins).unwrap();
    assert_eq!(newest, head, "no later checkpoint is signed");
    let found = suite.fsck().await.to_string();
    assert!(found.contains("does not match the entries"), "{found}");
    suite.stop_unchecked().await;
}

/// A-04, G-22: the suite does not start on a database that is older than the journal of the signer.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_rejected_at_the_start() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    back_up_all(&suite.pool).await;
    world.create_team("lost", &[]).await;
    let size = log.checkpoint(&suite).await.size;
    let journal = suite.data_dir().join("audit.signed");
    let before = std::fs::read_to_string(&journal).unwrap();
    let error = suite.restart_error(async |pool| restore_all(pool).await).await;
    assert!(error.contains("the database is older than what was signed"), "{error}");
    assert!(error.contains(&format!("of {size} entries")) && error.contains("--audit-origin"));
    assert!(before.lines().count() > 2);
}

async fn back_up_all(pool: &PgPool) {
    sqlx::raw_sql("create schema kept").execute(pool).await.unwrap();
    back_up(pool).await;
}

async fn restore_all(pool: &PgPool) {
    restore(pool).await;
    sqlx::raw_sql("update audit.tree set signed = least(signed, size)")
        .execute(pool)
        .await
        .unwrap();
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
