//! Upgrade to the next version with a migration: expand, replace the replicas, contract.
//!
//! The next version is this build, whose migrations are read from a directory that has further ones. So the
//! replicas of the current version run with the schema of the next one, as they do during an upgrade.

use std::{borrow::Cow, fs, path::Path};

use host::{DataDir, Host};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use testkit::Database;

use super::Drill;
use crate::support::service_processes::NAMES;

/// Migration with which the current version works: a column, an index and a trigger that fills the column.
const EXPAND: &str = "
    alter table outbox add column drill text;
    create index outbox_drill on outbox (drill);
    create function fill_drill() returns trigger language plpgsql as
        $$ begin new.drill := 'next'; return new; end $$;
    create trigger fill_drill before insert on outbox for each row execute function fill_drill();";
/// Migration that ends the support of the current version.
const CONTRACT: &str = "
    drop trigger fill_drill on outbox;
    drop function fill_drill();
    alter table outbox drop column drill;";

/// Applies the migrations of each service and these further ones, as `tenantry migrate` of the next version.
async fn migrate(database: &Database, further: &[(&'static str, &'static str)]) {
    let folder = tempfile::tempdir().unwrap();
    let data = DataDir::open(Some(folder.path())).unwrap();
    let mut host = Host::new(testkit::config(), database.options.clone(), data).unwrap();
    for name in NAMES {
        let services = Path::new(env!("CARGO_MANIFEST_DIR")).join("../services");
        let migrations = Migrator::new(services.join(name).join("migrations")).await.unwrap();
        let mut migrations = migrations.migrations.into_owned();
        for (number, (description, sql)) in (9_000..).zip(further) {
            let (description, sql) = (Cow::from(*description), sqlx::SqlStr::from_static(sql));
            let simple = MigrationType::Simple;
            migrations.push(Migration::new(number, description, simple, sql, false));
        }
        host.database(name, Box::leak(Box::new(Migrator::with_migrations(migrations))));
    }
    host.migrate().await.unwrap();
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_with_a_migration_fails_no_call() {
    let database = Database::new().await;
    let mut drill = Drill::start("upgrade with a migration", &database).await;
    let expand = ("expand outbox by a column", EXPAND);
    migrate(&database, &[expand]).await;
    drill.wait_for_calls().await;
    for index in 0..drill.cluster.len() {
        drill.cluster.stop_replica(index);
        drill.cluster.start_replica(index).await;
        drill.wait_for_calls().await;
    }
    migrate(&database, &[expand, ("contract outbox", CONTRACT)]).await;
    drill.wait_for_calls().await;
    let error = drill.cluster.start_error(0);
    assert!(error.contains("(contract outbox) of a newer version"), "{error}");
    drill.finish().await;
    database.drop().await;
}
