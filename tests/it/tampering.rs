//! A superuser changes the log behind its back, in every way: whoever has seen an older head finds it, and so
//! does the check; nobody cries wolf.

use std::path::Path;

use api::audit::ExportFormat;
use serde_json::json;
use sqlx::PgPool;
use testkit::{Suite, eventually};
use verifier::{Refused, note};

use crate::{ledger::Ledger, world::World};

/// Runs statements as a superuser who has switched every trigger off.
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
    // Only the triggers of the log are always on; the others are as they were.
    let on = sqlx::AssertSqlSafe(off.replace("disable trigger all", "enable trigger all"));
    sqlx::raw_sql(on).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// What the check finds.
async fn fsck(suite: &Suite) -> testkit::Findings {
    suite.fsck().await
}

/// A-10, AU-3, G-10: the triggers refuse every change, also where replication would skip them.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_refuses_to_change_the_log() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    ann.create_organization("acme").await.unwrap();
    suite.logged().await;
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
            let refused = sqlx::raw_sql(change).execute(&mut *tx).await.unwrap_err().to_string();
            assert!(refused.contains("the audit log is append-only"), "{change}: {refused}");
        }
    }
    let entries = "select relname from pg_inherits join pg_class on pg_class.oid = inhrelid";
    let month: String = sqlx::query_scalar(entries).fetch_one(&suite.pool).await.unwrap();
    let truncate = sqlx::AssertSqlSafe(format!("truncate audit.{month}"));
    let refused = sqlx::raw_sql(truncate).execute(&suite.pool).await.unwrap_err().to_string();
    assert!(refused.contains("append-only"), "{refused}");
    suite.finish().await;
}

/// What a superuser does to the log of one tree, and what the check says about it.
fn changes(org: &str) -> [(&'static str, String, &'static str); 8] {
    [
        (
            "one bit of an entry",
            format!("update audit.entry set leaf = set_byte(leaf, 9, get_byte(leaf, 9) # 1)
                     where tree = {org} and index = 7"),
            "entry 7: its bytes were changed",
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
            "entry 8: its bytes were changed",
        ),
        (
            "an entry is shown as somebody else's",
            format!("update audit.entry set actor = (select min(number) from audit.term where kind = 1
                         and tree = {org} and number <> actor) where tree = {org} and index = 6"),
            "entry 6: it is not found by what it says",
        ),
        (
            "a hash of the tree",
            format!("update audit.tile set hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1)
                     where tree = {org} and level = 0 and index = 0"),
            "the tile 0 of level 0 was changed",
        ),
        (
            "the end is cut",
            format!("delete from audit.entry where tree = {org} and index >= 18;
                     update audit.tree set size = 18, signed = 0 where number = {org}"),
            "the hashes at its edge were changed",
        ),
        (
            "a signed head",
            format!("update audit.checkpoint set leaf = replace(leaf, 'audit/', 'Audit/')
                     where index = (select min(index) from audit.checkpoint where tree = {org})"),
            "the suite's tree",
        ),
    ]
}

/// G-10, A-09, A-11: each change is found by the check, which names it, and by a client who holds an older
/// head or verifies a bundle. Before that, and after each change is taken back, nothing is found.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_a_superuser_is_found() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    for n in 0..20 {
        world.team(&format!("crew {n}"), &[]).await;
    }
    let head = ledger.head(&suite).await;
    let clean = fsck(&suite).await;
    assert!(clean.differs.is_empty(), "{clean}");
    assert!(clean.heads > 3 && clean.entries > 20);
    let org = format!("(select number from audit.tree where org_id = '{}')", world.org);
    for (what, change, told) in changes(&org) {
        sqlx::raw_sql("create schema if not exists kept").execute(&suite.pool).await.unwrap();
        keep(&suite.pool).await;
        tamper(&suite.pool, &[Box::leak(change.into_boxed_str())]).await;
        let found = fsck(&suite).await;
        assert!(found.differs.iter().any(|it| it.contains(told)), "{what}: {found}");
        restore(&suite.pool).await;
    }
    let again = fsck(&suite).await;
    assert!(again.differs.is_empty(), "taken back: {again}");
    assert_eq!(ledger.head(&suite).await.root, head.root);
    suite.finish().await;
}

/// Copies what a change may touch.
async fn keep(pool: &PgPool) {
    for table in ["entry", "tile", "tree", "checkpoint"] {
        let copy = format!("create table kept.{table} as select * from audit.{table}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(copy)).execute(pool).await.unwrap();
    }
}

/// Takes a change back.
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

/// A-04, G-10: a change to what was signed stops the signing: the log goes on, and no new head vouches for
/// it.
/// Whoever holds an older head, or has a bundle, sees it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_over_a_log_that_was_rewritten() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    for n in 0..20 {
        world.team(&format!("crew {n}"), &[]).await;
    }
    ledger.head(&suite).await;
    let org = format!("(select number from audit.tree where org_id = '{}')", world.org);
    // An entry and its hash together: no head vouches for it.
    let change = format!(
        "update audit.entry set leaf = leaf || '\\x6200'::bytea where tree = {org} and index = 3;
         update audit.tile set hashes = overlay(hashes placing
             (select sha256('\\x00'::bytea || leaf) from audit.entry where tree = {org} and index = 3)
             from 97 for 32)
         where tree = {org} and level = 0 and index = 0"
    );
    tamper(&suite.pool, &[Box::leak(change.into_boxed_str())]).await;
    let file = ledger.export(ExportFormat::Bundle).await;
    assert_eq!(ledger.verify(&file), Err(Refused::RootMismatch));
    // And every hash above it, up to the root.
    let change = format!(
        "update audit.tree set edge = set_byte(edge, size::int % 16 * 32, 1 + get_byte(edge, 0) % 7)
         where number = {org}"
    );
    let head = ledger.head(&suite).await;
    tamper(&suite.pool, &[Box::leak(change.into_boxed_str())]).await;
    world.team("after", &[]).await;
    suite.logged().await;
    // A round of the signer has passed: it has signed another log.
    let other = suite.person("other@example.com").await;
    let theirs = other.create_organization("other").await.unwrap();
    Ledger::new(&suite, &other, &theirs).await.head(&suite).await;
    let now = world.owner.tell("audit.v1.LogService/GetCheckpoint", ledger.here(json!({}))).await;
    let now = note::open(now["checkpoint"].as_str().unwrap(), &ledger.pins).unwrap();
    assert_eq!(now, head, "the head of before is the newest that is signed");
    let found = fsck(&suite).await.to_string();
    assert!(found.contains("the signed head is not that of the entries"), "{found}");
    suite.abandon().await;
}

/// A-04, G-22: a database that was restored from a backup is not served: the signer remembers more than it.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_refused_at_the_start() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    keep_all(&suite.pool).await;
    world.team("lost", &[]).await;
    let size = ledger.head(&suite).await.size;
    let journal = suite.folder().join("audit.signed");
    let before = std::fs::read_to_string(&journal).unwrap();
    let refused = suite.restart_refused(async |pool| bring_back(pool).await).await;
    assert!(refused.contains("the database is older than what was signed"), "{refused}");
    assert!(refused.contains(&format!("of {size} entries")) && refused.contains("--audit-origin"));
    assert!(before.lines().count() > 2);
}

async fn keep_all(pool: &PgPool) {
    sqlx::raw_sql("create schema kept").execute(pool).await.unwrap();
    keep(pool).await;
}

async fn bring_back(pool: &PgPool) {
    restore(pool).await;
    sqlx::raw_sql("update audit.tree set signed = least(signed, size)")
        .execute(pool)
        .await
        .unwrap();
}

/// The journal of a signer lies beside the database, is private, and every head in it was really signed.
#[tokio::test(flavor = "multi_thread")]
async fn the_signer_remembers_outside_the_database() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let ledger = Ledger::new(&suite, &ann, &org).await;
    let head = ledger.head(&suite).await;
    let journal = suite.folder().join("audit.signed");
    eventually("the head in the journal", async || {
        let text = std::fs::read_to_string(&journal).ok()?;
        text.contains(&format!("{org} {} ", head.size)).then_some(())
    })
    .await;
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&Path::metadata(&journal).unwrap().permissions());
    assert_eq!(mode & 0o077, 0);
    suite.finish().await;
}
