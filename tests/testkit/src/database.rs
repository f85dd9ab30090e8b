//! One PostgreSQL server for all tests, and one database per test, cloned from a migrated template.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    sync::OnceLock,
};

use chassis::Config;
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
    /// Length of the server's log when the database was created, in bytes.
    log_offset: u64,
}

struct Server {
    options: PgConnectOptions,
    log: PathBuf,
    /// Lock held until the end of the process, so that two test runs do not use the server at the same time.
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
    config_with(&[])
}

/// The settings with some arguments of the command line.
pub(crate) fn config_with(arguments: &[String]) -> Config {
    Arguments::parse_from(["test"].into_iter().chain(arguments.iter().map(String::as_str))).config
}

impl Database {
    /// Creates a database in which every schema is migrated.
    pub async fn new() -> Self {
        Self::create("template tenantry_template strategy file_copy").await
    }

    /// Creates a database with a locale (options of `CREATE DATABASE`), in which every schema is migrated.
    pub(crate) async fn with_locale(locale: &str) -> Self {
        let created = Self::create(&format!("template template0 encoding 'UTF8' {locale}")).await;
        migrate(created.options.clone()).await;
        created
    }

    async fn create(options: &str) -> Self {
        let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(start))
            .await
            .expect("PostgreSQL starts");
        let name = format!("t_{}", chassis::id::new().simple());
        let log_offset = std::fs::metadata(&server.log).map_or(0, |it| it.len());
        let mut admin = admin(&server.options).await;
        let create = format!("create database {name} {options}");
        admin.execute(AssertSqlSafe(create)).await.expect("the database is created");
        Self { options: server.options.clone().database(&name), name, log_offset }
    }

    /// Returns another handle of the same database, for a second instance of the program.
    pub(crate) fn share(&self) -> Self {
        Self { options: self.options.clone(), name: self.name.clone(), log_offset: self.log_offset }
    }

    /// Drops this database and returns the handle of its copy on another server, which exists already and
    /// which `options` name.
    pub(crate) async fn into_copy(self, options: PgConnectOptions) -> Self {
        let name = options.get_database().expect("the options name a database").to_owned();
        let log_offset = self.log_offset;
        self.drop().await;
        Self { options, name, log_offset }
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

    /// Number of `BEGIN`s on connections that were already in a transaction, from the warnings in the
    /// server's log. A handler that is dropped during a transaction can cause one.
    pub fn nested_transactions(&self) -> usize {
        let warning = "there is already a transaction in progress";
        self.server_log().iter().filter(|it| it.contains(warning)).count()
    }

    /// Messages about this database in the log of the server, with their further lines.
    pub fn server_log(&self) -> Vec<String> {
        let mut log = vec![];
        if let Some(mut file) = SERVER.get().and_then(|it| File::open(&it.log).ok()) {
            let read = file.seek(SeekFrom::Start(self.log_offset));
            read.and_then(|_| file.read_to_end(&mut log))
                .expect("the log of the server is readable");
        }
        let mut messages: Vec<String> = vec![];
        let mut is_own = false;
        for line in String::from_utf8_lossy(&log).lines() {
            // Further lines of a message begin with a tab.
            if !line.starts_with('\t') {
                is_own = line.contains(&self.name);
                if is_own {
                    messages.push(line.to_owned());
                }
            } else if let Some(message) = messages.last_mut().filter(|_| is_own) {
                *message += line;
            }
        }
        messages
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

/// Data directory of the PostgreSQL server: one per checkout, reused by the next run.
pub(crate) fn folder() -> PathBuf {
    let checkout = env!("CARGO_MANIFEST_DIR").as_bytes();
    let hash = data_encoding::HEXLOWER.encode(&chassis::key::hash(checkout)[..6]);
    std::env::temp_dir().join(format!("tenantry-test-{hash}"))
}

/// Starts the server and migrates the template. Must be called outside of a Tokio runtime, because it blocks
/// on a runtime of its own.
fn start() -> Server {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be created").block_on(async {
        let folder = folder();
        std::fs::create_dir_all(&folder).expect("the directory of PostgreSQL can be created");
        let lock = File::create(folder.join("testkit.lock")).expect("the lock file can be created");
        flock(&lock, FlockOperation::LockExclusive).expect("the lock file can be locked");
        let server =
            Postgres::start(&folder, None, Durability::Fast).await.expect("PostgreSQL starts");
        let options = server.options().disable_statement_logging();
        let log = server.log();
        // Keeps the server running after this process, for the next test run.
        std::mem::forget(server);
        let mut admin = admin(&options).await;
        let select_old = "select datname from pg_database
                          where datname like 't\\_%' or datname = 'tenantry_template'";
        let old: Vec<String> = sqlx::query_scalar(select_old)
            .fetch_all(&mut admin)
            .await
            .expect("the databases can be listed");
        for name in old {
            let drop = format!("drop database {name} with (force)");
            admin.execute(AssertSqlSafe(drop)).await.expect("an old database is dropped");
        }
        let create_template = "create database tenantry_template";
        admin.execute(create_template).await.expect("the template is created");
        migrate(options.clone().database("tenantry_template")).await;
        Server { options, log, _lock: lock }
    })
}

/// Creates the schemas of all services in a database.
async fn migrate(options: PgConnectOptions) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let data = DataDir::open(Some(folder.path())).expect("the data directory can be opened");
    let mut host = Host::new(config(), options, data).expect("the settings are valid");
    for install in tenantry::INSTALLS {
        install(&mut host).expect("a service installs");
    }
    host.migrate().await.expect("the template is migrated");
    for db in host.databases() {
        db.close().await;
    }
}

/// Returns a query with the rows that `query` has in the schema of each service: `{service}` is the name of
/// the schema.
pub(crate) fn of_each_service(query: &str) -> String {
    let services = chassis::registry::SERVICES.iter();
    let queries: Vec<_> = services.map(|it| query.replace("{service}", it.name)).collect();
    queries.join(" union all ")
}
