//! Databases of environments: on a PostgreSQL server named by the operator, or on a server that the runner
//! starts. That server keeps running when the runner ends, like all deployed programs. It is stopped and
//! removed with its last database.

mod copy;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{MutexGuard, PoisonError},
};

use anyhow::{Context, Result, ensure};
use api::project::{Lease, Provision, Variable};
use embedded_postgres::{Postgres, PublicListener};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::{
    process::Command,
    sync::{Mutex, RwLock},
};

use super::{
    Processes,
    directory::remove_tree,
    network::Network,
    sandbox::{PATH, program_path},
};
use crate::driver::ProgressReporter;
pub(super) use copy::Snapshot;
use copy::copy_name;

/// Default limit of an environment's connections to its database.
const CONNECTIONS_MAX: i32 = 20;

/// PostgreSQL server that holds the databases of environments, started or connected to on first use.
pub(super) struct Databases {
    /// Directory of the runner's own server.
    data_dir: PathBuf,
    /// Administrator URL (`postgres://…`) of an external server; `None`: the runner's own server.
    external_url: Option<String>,
    /// Locked while the server is started or stopped.
    server: Mutex<Option<Server>>,
    /// `host:port` for programs; empty while the server is not running.
    address: std::sync::Mutex<String>,
    /// Locked for writing while the server is removed, for reading while a database is created.
    usage: RwLock<()>,
}

struct Server {
    /// Connection options of an administrator.
    admin: PgConnectOptions,
    /// The runner's own server; `None` for an external one. Dropping it does not stop the server.
    own: Option<Postgres>,
}

/// Credentials for `pg_dump` and `pg_restore`.
struct DatabaseCredentials<'a> {
    user: &'a str,
    password: &'a str,
    database: &'a str,
}

impl Databases {
    pub(super) fn new(data_dir: PathBuf, external_url: Option<String>) -> Self {
        Self {
            data_dir,
            external_url,
            server: Mutex::default(),
            address: std::sync::Mutex::default(),
            usage: RwLock::default(),
        }
    }

    /// Returns `host:port` for programs; empty while the server is not running.
    pub(super) fn address(&self) -> String {
        self.lock_address().clone()
    }

    fn lock_address(&self) -> MutexGuard<'_, String> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if the server exists, possibly created by a previous runner.
    pub(super) fn exists(&self) -> bool {
        self.external_url.is_some() || self.data().exists()
    }

    /// Data of the runner's own server.
    fn data(&self) -> PathBuf {
        self.data_dir.join("postgres")
    }

    /// Returns the connection options of an administrator. Starts the server if necessary.
    async fn options(&self, network: &Network) -> Result<PgConnectOptions> {
        let mut server = self.server.lock().await;
        self.start_if_stopped(network, &mut server).await
    }

    async fn start_if_stopped(
        &self,
        network: &Network,
        server: &mut Option<Server>,
    ) -> Result<PgConnectOptions> {
        if let Some(server) = server {
            return Ok(server.admin.clone());
        }
        let (started, address) = self.start(network).await?;
        *self.lock_address() = address;
        Ok(server.insert(started).admin.clone())
    }

    /// Stops and removes the runner's own server if it has no database of an environment.
    async fn remove_unused_server(&self, network: &Network) -> Result<()> {
        if self.external_url.is_some() || !self.exists() {
            return Ok(());
        }
        let _usage = self.usage.write().await;
        let mut admin = self.admin(network).await?;
        if has_row(&mut admin, "select 1 from pg_database where datname like 'env\\_%'".to_owned())
            .await?
        {
            return Ok(());
        }
        drop(admin);
        let mut server = self.server.lock().await;
        let own = server.take().and_then(|it| it.own).context("the server is not running")?;
        self.lock_address().clear();
        tracing::info!("removing the database server of environments, which has no database");
        tokio::task::spawn_blocking(|| own.stop()).await?;
        let has_stopped = !self.data().join("postmaster.pid").exists();
        ensure!(has_stopped, "the database server of environments does not stop");
        remove_tree(&self.data()).await
    }

    /// Starts the server if it exists but has not been used since the start of this runner, so that running
    /// programs can reach their databases.
    pub(super) async fn resume(&self, network: &Network) {
        let mut server = self.server.lock().await;
        if self.exists()
            && let Err(error) = self.start_if_stopped(network, &mut server).await
        {
            let error = format!("{error:#}");
            tracing::warn!(error, "the database server of environments cannot be started");
        }
    }

    /// Returns the server and its address for programs.
    async fn start(&self, network: &Network) -> Result<(Server, String)> {
        if let Some(url) = &self.external_url {
            let admin: PgConnectOptions =
                url.parse().context("--database-url must be a postgres:// URL")?;
            let address = format!("{}:{}", admin.get_host(), admin.get_port());
            for resolved in tokio::net::lookup_host(&address).await?.filter(SocketAddr::is_ipv4) {
                network.allow_service(resolved).await?;
            }
            return Ok((Server { admin, own: None }, address));
        }
        std::fs::create_dir_all(&self.data_dir)?;
        // The port is the same after a restart, because it is in the environment variables of programs.
        let port_file = self.data_dir.join("port");
        let saved = std::fs::read_to_string(&port_file).ok().and_then(|it| it.trim().parse().ok());
        let port = if let Some(port) = saved {
            port
        } else {
            let unused = TcpListener::bind((network.service_address(), 0))?.local_addr()?.port();
            std::fs::write(&port_file, unused.to_string())?;
            unused
        };
        let address = SocketAddr::new(network.service_address(), port);
        let listener = PublicListener { address, clients: network.client_addresses() };
        let server = Postgres::start_for_environments(&self.data_dir, listener).await;
        let server = server.context("the PostgreSQL server of environments cannot be started")?;
        network.allow_service(address).await?;
        let admin = server.options();
        revoke_shared_databases(&admin).await?;
        Ok((Server { admin, own: Some(server) }, address.to_string()))
    }

    async fn admin(&self, network: &Network) -> Result<PgConnection> {
        let admin = self.options(network).await?.database("postgres");
        let connected = PgConnection::connect_with(&admin).await;
        connected.context("cannot connect to the PostgreSQL server of environments")
    }

    /// Creates, updates or removes a database with its role. Returns the database's URL for the program;
    /// `None` if it was removed.
    pub(super) async fn provision(
        &self,
        network: &Network,
        provision: &Provision,
    ) -> Result<Option<String>> {
        let key = &provision.addon_key;
        ensure!(key == "postgresql", "this runner does not support the add-on {key}");
        check_name(&provision.name)?;
        if provision.remove {
            self.remove(network, &provision.name).await?;
            return Ok(None);
        }
        check_password(&provision.password)?;
        let setting = provision.settings.iter().find(|it| it.name == "connections_max");
        let connections = setting.map_or(Ok(CONNECTIONS_MAX), |it| it.value.parse())?;
        let _usage = self.usage.read().await;
        let mut admin = self.admin(network).await?;
        let name = &provision.name;
        let password = &provision.password;
        let role = format!("select 1 from pg_roles where rolname = '{name}'");
        let verb = if has_row(&mut admin, role).await? { "alter" } else { "create" };
        let role = format!(
            "{verb} role {name} with login password '{password}' nosuperuser nocreatedb nocreaterole \
             noreplication nobypassrls connection limit {connections}"
        );
        run(&mut admin, role).await?;
        let database = format!("select 1 from pg_database where datname = '{name}'");
        if !has_row(&mut admin, database).await? {
            create_database(&mut admin, name, name).await?;
        }
        let address = self.address();
        Ok(Some(format!("postgres://{name}:{password}@{address}/{name}")))
    }

    /// Removes a database and its role, if they exist.
    pub(super) async fn remove(&self, network: &Network, name: &str) -> Result<()> {
        check_name(name)?;
        let mut admin = self.admin(network).await?;
        for database in [name, &copy_name(name)] {
            drop_database(&mut admin, database).await?;
        }
        if let Err(error) = run(&mut admin, format!("drop role if exists {name}")).await {
            // Objects in another database depend on the role, so it is disabled instead.
            let error = format!("{error:#}");
            tracing::warn!(
                role = name,
                error,
                "the role of a removed database cannot be dropped; it is disabled"
            );
            run(&mut admin, format!("alter role {name} nologin password null")).await?;
        }
        drop(admin);
        if let Err(error) = self.remove_unused_server(network).await {
            let error = format!("{error:#}");
            tracing::warn!(error, "the unused database server of environments is not removed");
        }
        Ok(())
    }

    /// Returns a command for one of PostgreSQL's tools. It runs as the environment's account and does not
    /// inherit this process's environment variables.
    fn tool(
        &self,
        name: &str,
        credentials: &DatabaseCredentials<'_>,
        account: Option<u32>,
    ) -> Result<Command> {
        let address = self.address();
        let (host, port) =
            address.rsplit_once(':').context("the database server has not been started")?;
        // The kernel kills the tool when the thread that has started it ends: a thread of the runtime, which
        // ends with this process.
        let mut tool = Command::new(program_path("setpriv"));
        tool.args(["--pdeathsig", "KILL"]);
        if let Some(account) = account {
            tool.arg(format!("--reuid={account}")).arg(format!("--regid={account}"));
            tool.arg("--clear-groups");
        }
        tool.arg("--").arg(embedded_postgres::program(name)?);
        tool.env_clear().env("PATH", PATH).env("PGHOST", host).env("PGPORT", port);
        tool.env("PGUSER", credentials.user).env("PGPASSWORD", credentials.password);
        tool.env("PGDATABASE", credentials.database)
            .env("PGCONNECT_TIMEOUT", "10")
            .current_dir("/");
        tool.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        tool.kill_on_drop(true);
        Ok(tool)
    }
}

impl Processes {
    /// Provisions the add-ons of a lease. Returns the lease with the variables through which the program
    /// finds them.
    pub(super) async fn provision_addons(
        &self,
        lease: &Lease,
        report: &ProgressReporter,
    ) -> Result<Lease> {
        let mut lease = lease.clone();
        for provision in &lease.provisions {
            let key = &provision.addon_key;
            let value = self.databases.provision(&self.sandbox.network, provision).await;
            let value = value.with_context(|| format!("add-on {key} cannot be provisioned"))?;
            let state = if value.is_some() { "ready" } else { "removed" };
            report.log(vec![format!("add-on {key}: {state}")]).await;
            let name = provision.variable.clone();
            lease.variables.extend(value.map(|value| Variable { name, value, secret: true }));
        }
        Ok(lease)
    }
}

/// Returns the name of an environment's database and of its role.
pub(super) fn database_name(environment_id: &str) -> String {
    format!("env_{}", environment_id.replace('-', ""))
}

/// Returns the URL of the copy that replaces the database of a URL.
pub(super) fn copy_url(url: &str) -> String {
    match url.rsplit_once('/') {
        Some((server, name)) => format!("{server}/{}", copy_name(name)),
        None => url.to_owned(),
    }
}

/// Validates a name before it is inserted into an SQL statement: names are derived from environment ids.
fn check_name(name: &str) -> Result<()> {
    let is_identifier =
        name.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_');
    ensure!(
        is_identifier && name.starts_with("env_") && name.len() < 60,
        "invalid database name {name:?}"
    );
    Ok(())
}

/// Validates a password before it is inserted into an SQL statement.
fn check_password(password: &str) -> Result<()> {
    let is_safe = password.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it));
    ensure!(
        is_safe && password.len() >= 16,
        "a database password must have at least 16 characters of A-Z, a-z, 0-9, - and _"
    );
    Ok(())
}

/// Creates a database that only its owner can connect to. Its locale is C.UTF-8: the order of texts is that
/// of their code points, and `lower` and `upper` convert all letters, not only those of ASCII.
async fn create_database(admin: &mut PgConnection, name: &str, owner: &str) -> Result<()> {
    let create = format!("create database {name} owner {owner} template template0");
    let locale = "encoding 'UTF8' locale_provider libc locale 'C.UTF-8'";
    if let Err(error) = run(admin, format!("{create} {locale}")).await {
        let error = format!("{error:#}");
        tracing::warn!(error, "the database server has no locale C.UTF-8; using its default");
        run(admin, create).await?;
    }
    run(admin, format!("revoke all on database {name} from public")).await
}

/// Drops a database, even if its owner has marked it as a template or has open connections.
async fn drop_database(admin: &mut PgConnection, name: &str) -> Result<()> {
    let exists = format!("select 1 from pg_database where datname = '{name}'");
    if has_row(admin, exists).await? {
        run(admin, format!("alter database {name} is_template false")).await?;
        run(admin, format!("drop database {name} with (force)")).await?;
    }
    Ok(())
}

/// Revokes access to the databases that are not an environment's: those of `initdb` and `tenantry`, which
/// `embedded_postgres` creates on every server. Objects that an environment creates in them, or locks that it
/// holds there, would affect other environments.
async fn revoke_shared_databases(admin: &PgConnectOptions) -> Result<()> {
    let mut admin = PgConnection::connect_with(&admin.clone().database("postgres")).await?;
    for database in ["postgres", "template1", "tenantry"] {
        let revoke = format!("revoke connect, temporary on database {database} from public");
        run(&mut admin, revoke).await?;
    }
    Ok(())
}

async fn run(connection: &mut PgConnection, statement: String) -> Result<()> {
    connection.execute(AssertSqlSafe(statement)).await?;
    Ok(())
}

async fn has_row(connection: &mut PgConnection, query: String) -> Result<bool> {
    Ok(connection.fetch_optional(AssertSqlSafe(query)).await?.is_some())
}
