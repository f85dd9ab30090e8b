//! Migrations: no statement time-out, and locks that do not block other transactions.

use std::sync::atomic::{AtomicU32, Ordering};

use host::{DataDir, Host};
use sqlx::{
    Connection, PgConnection,
    migrate::{Migration, MigrationType, Migrator},
};
use testkit::{Database, eventually};

/// A host with a schema `trial` and these migrations.
fn host(database: &Database, folder: &std::path::Path, sql: &[&'static str]) -> Host {
    let named: Vec<_> = sql.iter().map(|sql| ("trial", *sql)).collect();
    named_host(database, folder, &named)
}

/// A host with a schema `trial` and these migrations: description and SQL.
fn named_host(
    database: &Database,
    folder: &std::path::Path,
    sql: &[(&'static str, &'static str)],
) -> Host {
    let migration = |(i, (description, sql)): (i64, &(&'static str, &'static str))| {
        let sql = sqlx::SqlStr::from_static(sql);
        Migration::new(i, (*description).into(), MigrationType::Simple, sql, false)
    };
    let migrations = (1..).zip(sql).map(migration).collect();
    let migrations = Box::leak(Box::new(Migrator::with_migrations(migrations)));
    let data = DataDir::open(Some(folder)).unwrap();
    let mut host = Host::new(testkit::config(), database.options.clone(), data).unwrap();
    host.database("trial", migrations);
    host
}

/// Migrations run without the statement time-out of calls.
#[tokio::test(flavor = "multi_thread")]
async fn migrations_have_no_statement_timeout() {
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let check_timeout = "do $$ begin
        if current_setting('statement_timeout') <> '0' then
            raise exception 'statement_timeout is %', current_setting('statement_timeout');
        end if;
    end $$";
    host(&database, folder.path(), &[check_timeout]).migrate().await.unwrap();
    database.drop().await;
}

/// A migration that waits for a lock does not block other transactions, and continues when the lock is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_migration_blocks_no_other_transaction() {
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let create = "create table busy (id integer)";
    host(&database, folder.path(), &[create]).migrate().await.unwrap();
    let mut reader = PgConnection::connect_with(&database.options).await.unwrap();
    let mut read_tx = reader.begin().await.unwrap();
    sqlx::query("select id from trial.busy").execute(&mut *read_tx).await.unwrap();

    let change = "alter table busy add column name text";
    let host = host(&database, folder.path(), &[create, change]);
    let migrating = tokio::task::spawn(async move { host.migrate().await });
    let mut other = PgConnection::connect_with(&database.options).await.unwrap();
    let waits =
        "select count(*) from pg_locks where relation = 'trial.busy'::regclass and not granted";
    // Twice, so that the migration has left the lock queue and joined it again in between.
    let rounds = AtomicU32::new(0);
    while rounds.fetch_add(1, Ordering::Relaxed) < 2 {
        let observer = PgConnection::connect_with(&database.options).await.unwrap();
        let observer = tokio::sync::Mutex::new(observer);
        eventually("the waiting migration", async || {
            let mut connection = observer.lock().await;
            let count: i64 = sqlx::query_scalar(waits).fetch_one(&mut *connection).await.unwrap();
            (count > 0).then_some(())
        })
        .await;
        sqlx::query("select id from trial.busy").execute(&mut other).await.unwrap();
        assert!(!migrating.is_finished(), "the migration ended without the lock");
    }
    read_tx.rollback().await.unwrap();
    migrating.await.unwrap().unwrap();
    sqlx::query("select name from trial.busy").execute(&mut other).await.unwrap();
    database.drop().await;
}

/// A program ignores migrations of a newer version that are marked as compatible, and refuses others.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_works_with_compatible_migrations_of_a_newer_version() {
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let create = ("create", "create table busy (id integer)");
    let expand = ("expand busy by a name", "alter table busy add column name text");
    let contract = ("contract busy", "alter table busy drop column id");
    named_host(&database, folder.path(), &[create, expand]).migrate().await.unwrap();
    named_host(&database, folder.path(), &[create]).migrate().await.unwrap();
    named_host(&database, folder.path(), &[create, expand, contract]).migrate().await.unwrap();
    let error = named_host(&database, folder.path(), &[create]).migrate().await.unwrap_err();
    let error = error.to_string();
    assert!(error.contains("has the migration 3 (contract busy) of a newer version"), "{error}");
    assert!(error.contains("start the newer version"), "{error}");
    database.drop().await;
}
