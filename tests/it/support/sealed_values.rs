//! Values in columns that the secret key of the deployment has sealed.

use host::{DataDir, Host};
use testkit::Suite;
use worker::reseal::{self, Counts};

/// A host with the database and the secret key of a suite, which does not run.
async fn host(suite: &Suite, folder: &std::path::Path) -> Host {
    let config = chassis::Config {
        database_url: Some(suite.database_url().into()),
        key_file: Some(suite.data_dir().join("secret.key")),
        ..testkit::config()
    };
    let options = suite.database_url().parse().unwrap();
    let mut host = Host::new(config, options, DataDir::open(Some(folder)).unwrap()).unwrap();
    for install in tenantry::INSTALLS {
        install(&mut host).unwrap();
    }
    for db in host.databases() {
        db.require_key(host.key()).await.unwrap();
    }
    host
}

/// Fails unless each of these columns (`project.git_connection.sealed`) has sealed values, and the rotation
/// of the secret key opens all of them.
pub(crate) async fn require_sealed_values(suite: &Suite, expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let host = host(suite, folder.path()).await;
    let current = host.key().ids().remove(0);
    for name in expected {
        let found = host.databases().find_map(|db| {
            let mut columns = host.sealed_columns(db).iter();
            let full_name = |table: &str, column: &str| format!("{}.{table}.{column}", db.name());
            Some((db, columns.find(|it| full_name(it.table, it.column) == *name)?))
        });
        let (db, column) = found.unwrap_or_else(|| panic!("{name} is not declared"));
        let counts: Counts =
            reseal::count(db, host.key(), std::slice::from_ref(column)).await.unwrap();
        let keys: Vec<_> = counts.keys().collect();
        assert_eq!(keys, [&current], "{name}: {counts:?}");
    }
    for db in host.databases() {
        db.close().await;
    }
}
