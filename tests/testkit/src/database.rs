//! One PostgreSQL server for all tests, and one database per test, cloned from a migrated template.

use std::{fs::File, path::PathBuf, sync::OnceLock};

use chassis::{Config, OrgId};
use clap::Parser;
use embedded_postgres::{Durability, Postgres};
use host::{DataDir, Host};
use rustix::fs::{FlockOperation, flock};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions,
};

/// The database of one test; dropped if the test succeeds.
pub struct Database {
    /// Connection options.
    pub options: PgConnectOptions,
    name: String,
}

struct Server {
    options: PgConnectOptions,
    log: PathBuf,
    /// Lock held until the end of the process: two test runs cannot share the server.
    _lock: File,
}

static SERVER: OnceLock<Server> = OnceLock::new();

/// Command line of a test process, for the default settings.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    config: Config,
}

/// The default settings.
pub fn config() -> Config {
    Arguments::parse_from(["test"]).config
}

impl Database {
    /// Creates a database in which every schema is migrated.
    pub async fn new() -> Self {
        let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(start))
            .await
            .expect("PostgreSQL starts");
        let name = format!("t_{}", OrgId::new().0.simple());
        let mut admin = admin(&server.options).await;
        let create =
            format!("create database {name} template tenantry_template strategy file_copy");
        admin.execute(AssertSqlSafe(create)).await.expect("the template is cloned");
        Self { options: server.options.clone().database(&name), name }
    }

    /// The same database for a replica.
    pub(crate) fn share(&self) -> Self {
        Self { options: self.options.clone(), name: self.name.clone() }
    }

    /// The copy of this database on another server; drops the old one.
    pub(crate) async fn into_copy(self, options: PgConnectOptions) -> Self {
        let name = options.get_database().expect("a database").to_owned();
        self.drop().await;
        Self { options, name }
    }

    /// URL for the owner of the schemas.
    pub fn url(&self) -> String {
        self.url_as("tenantry")
    }

    /// URL for a PostgreSQL role.
    pub fn url_as(&self, user: &str) -> String {
        let socket =
            self.options.get_socket().map(|it| it.display().to_string()).unwrap_or_default();
        format!("postgres://{user}@localhost:5432/{}?host={socket}", self.name)
    }

    /// Number of `BEGIN`s on connections that were already in a transaction: the trace of a handler that was
    /// dropped during a transaction.
    pub fn nested_transactions(&self) -> usize {
        let log = SERVER.get().map(|it| std::fs::read_to_string(&it.log).unwrap_or_default());
        let warning = "there is already a transaction in progress";
        log.unwrap_or_default()
            .lines()
            .filter(|it| it.contains(&self.name) && it.contains(warning))
            .count()
    }

    /// Drops the database.
    pub async fn drop(self) {
        let mut admin = admin(&self.options.database("postgres")).await;
        let drop = format!("drop database {} with (force)", self.name);
        admin.execute(AssertSqlSafe(drop)).await.expect("the database is dropped");
    }
}

async fn admin(options: &PgConnectOptions) -> PgConnection {
    let options = options.clone().database("postgres");
    PgConnection::connect_with(&options).await.expect("PostgreSQL answers")
}

/// Data directory of the server: one per checkout, reused by the next run.
pub(crate) fn folder() -> PathBuf {
    let checkout = env!("CARGO_MANIFEST_DIR").as_bytes();
    let hash = data_encoding::HEXLOWER.encode(&chassis::key::hash(checkout)[..6]);
    std::env::temp_dir().join(format!("tenantry-test-{hash}"))
}

/// Starts the server and migrates the template. Needs a thread outside of any runtime.
fn start() -> Server {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let folder = folder();
        std::fs::create_dir_all(&folder).expect("a folder for PostgreSQL");
        let lock = File::create(folder.join("testkit.lock")).expect("a lock file");
        flock(&lock, FlockOperation::LockExclusive).expect("the lock of the tests' PostgreSQL");
        let server =
            Postgres::start(&folder, None, Durability::Fast).await.expect("PostgreSQL starts");
        let options = server.options().disable_statement_logging();
        let log = server.log();
        std::mem::forget(server);
        let mut admin = admin(&options).await;
        let old = "select datname from pg_database
                   where datname like 't\\_%' or datname = 'tenantry_template'";
        let old: Vec<String> =
            sqlx::query_scalar(old).fetch_all(&mut admin).await.expect("old databases");
        for name in old {
            let drop = format!("drop database {name} with (force)");
            admin.execute(AssertSqlSafe(drop)).await.expect("an old database is dropped");
        }
        admin.execute("create database tenantry_template").await.expect("a template");
        migrate(options.clone().database("tenantry_template")).await;
        Server { options, log, _lock: lock }
    })
}

async fn migrate(options: PgConnectOptions) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().expect("a folder");
    let data = DataDir::open(Some(folder.path())).expect("a data directory");
    let mut host = Host::new(config(), options, data).expect("a host");
    for install in tenantry::INSTALLS {
        install(&mut host).expect("a service installs");
    }
    host.migrate().await.expect("the template is migrated");
    for db in host.databases() {
        db.close().await;
    }
}
