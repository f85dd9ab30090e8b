//! Migrations: how long they may take, and what they wait for.

use std::sync::atomic::{AtomicU32, Ordering};

use chassis::{Host, host::DataDir};
use sqlx::{
    Connection, PgConnection,
    migrate::{Migration, MigrationType, Migrator},
};
use testkit::{Database, eventually};

/// A schema `trial` with these migrations, in a database of its own.
fn host(database: &Database, folder: &std::path::Path, sql: &[&'static str]) -> Host {
    let migration = |(i, sql): (i64, &&'static str)| {
        let sql = sqlx::SqlStr::from_static(sql);
        Migration::new(i, "trial".into(), MigrationType::Simple, sql, false)
    };
    let migrations = (1..).zip(sql).map(migration).collect();
    let migrations = Box::leak(Box::new(Migrator::with_migrations(migrations)));
    let data = DataDir::open(Some(folder)).unwrap();
    let mut host = Host::new(testkit::config(), database.options.clone(), data).unwrap();
    host.database("trial", migrations);
    host
}

/// A migration of a large table takes as long as it takes: the time-outs of calls are not its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_is_not_under_the_time_outs_of_calls() {
    let (database, folder) = (Database::new().await, tempfile::tempdir().unwrap());
    let limited = "do $$ begin
        if current_setting('statement_timeout') <> '0' then
            raise exception 'a migration may take %', current_setting('statement_timeout');
        end if;
    end $$";
    host(&database, folder.path(), &[limited]).migrate().await.unwrap();
    database.drop().await;
}

/// A migration that waits for a lock lets everybody else pass meanwhile, and goes on when it is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_waits_for_a_lock_holds_nobody_up() {
    let (database, folder) = (Database::new().await, tempfile::tempdir().unwrap());
    let create = "create table busy (id integer)";
    host(&database, folder.path(), &[create]).migrate().await.unwrap();
    let mut reader = PgConnection::connect_with(&database.options).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    sqlx::query("select id from trial.busy").execute(&mut *reading).await.unwrap();

    let change = "alter table busy add column name text";
    let host = host(&database, folder.path(), &[create, change]);
    let migrating = tokio::task::spawn(async move { host.migrate().await });
    let mut other = PgConnection::connect_with(&database.options).await.unwrap();
    let waits =
        "select count(*) from pg_locks where relation = 'trial.busy'::regclass and not granted";
    // Twice, so that it has given way in between.
    let passed = AtomicU32::new(0);
    while passed.fetch_add(1, Ordering::Relaxed) < 2 {
        let waiting = PgConnection::connect_with(&database.options).await.unwrap();
        let waiting = tokio::sync::Mutex::new(waiting);
        eventually("a migration that waits", async || {
            let mut connection = waiting.lock().await;
            let count: i64 = sqlx::query_scalar(waits).fetch_one(&mut *connection).await.unwrap();
            (count > 0).then_some(())
        })
        .await;
        sqlx::query("select id from trial.busy").execute(&mut other).await.unwrap();
        assert!(!migrating.is_finished(), "it does not give up");
    }
    reading.rollback().await.unwrap();
    migrating.await.unwrap().unwrap();
    sqlx::query("select name from trial.busy").execute(&mut other).await.unwrap();
    database.drop().await;
}
