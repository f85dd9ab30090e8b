//! Databases of environments: on a PostgreSQL that the operator names, or on one of the runner's own, which
//! goes on when the runner ends, like everything that is deployed.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use api::project::Provision;
use chassis::postgres::{self, Postgres, PublicListener};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, postgres::PgConnectOptions};
use tokio::{process::Command, sync::OnceCell};

use super::{network::Network, sandbox::PATH};
use crate::text::read_bounded;

/// Connections of an environment to its database, unless its settings say otherwise.
const CONNECTIONS_MAX: i32 = 20;

/// Bytes of an error that are kept.
const ERROR_BYTES_MAX: usize = 8 << 10;

/// A PostgreSQL on which environments get databases.
pub(super) struct Databases {
    folder: PathBuf,
    /// An administrator's address, `postgres://…`; without it, a server of the runner's own below `folder`.
    named: Option<String>,
    server: OnceCell<Server>,
}

struct Server {
    /// As an administrator.
    admin: PgConnectOptions,
    /// The address at which programs reach it.
    address: String,
}

/// A login for `pg_dump` and `pg_restore`.
struct Login<'a> {
    user: &'a str,
    password: &'a str,
    database: &'a str,
}

impl Databases {
    pub(super) fn new(folder: PathBuf, named: Option<String>) -> Self {
        Self { folder, named, server: OnceCell::new() }
    }

    /// The address at which programs reach it; empty before the first needs it.
    pub(super) fn address(&self) -> String {
        self.server.get().map(|it| it.address.clone()).unwrap_or_default()
    }

    /// True if there is a server, perhaps made by an earlier runner.
    pub(super) fn exists(&self) -> bool {
        self.named.is_some() || self.server.get().is_some() || self.folder.join("postgres").exists()
    }

    async fn server(&self, network: &Network) -> Result<&Server> {
        self.server.get_or_try_init(|| self.start(network)).await
    }

    /// Starts the server that an earlier runner made, so that programs find their databases.
    pub(super) async fn resume(&self, network: &Network) {
        if self.exists()
            && let Err(error) = self.server(network).await
        {
            let error = format!("{error:#}");
            tracing::warn!(error, "the databases of environments do not start");
        }
    }

    async fn start(&self, network: &Network) -> Result<Server> {
        if let Some(url) = &self.named {
            let admin: PgConnectOptions =
                url.parse().context("--database-url is not an address of PostgreSQL")?;
            let address = format!("{}:{}", admin.get_host(), admin.get_port());
            for service in tokio::net::lookup_host(&address).await?.filter(SocketAddr::is_ipv4) {
                network.allow_service(service).await?;
            }
            return Ok(Server { admin, address });
        }
        std::fs::create_dir_all(&self.folder)?;
        let file = self.folder.join("port");
        let known = std::fs::read_to_string(&file).ok().and_then(|it| it.trim().parse().ok());
        let port = if let Some(port) = known {
            port
        } else {
            let unused = TcpListener::bind((network.service_address(), 0))?.local_addr()?.port();
            std::fs::write(&file, unused.to_string())?;
            unused
        };
        let address = SocketAddr::new(network.service_address(), port);
        let listener = PublicListener { address, clients: network.client_addresses() };
        let server = Postgres::start_for_environments(&self.folder, listener).await;
        let server = server.context("PostgreSQL for environments does not start")?;
        network.allow_service(address).await?;
        let admin = server.options();
        close_common_databases(&admin).await?;
        // Dropping the handle leaves the server running, on purpose.
        drop(server);
        Ok(Server { admin, address: address.to_string() })
    }

    async fn admin(&self, network: &Network) -> Result<PgConnection> {
        let admin = self.server(network).await?.admin.clone().database("postgres");
        let connected = PgConnection::connect_with(&admin).await;
        connected.context("PostgreSQL for environments does not answer")
    }

    /// Creates, changes or removes a database with its role. Returns its address for the program, unless it
    /// is removed.
    pub(super) async fn provide(
        &self,
        network: &Network,
        provision: &Provision,
    ) -> Result<Option<String>> {
        let key = &provision.service_key;
        ensure!(key == "postgresql", "this runner cannot provide {key}");
        check_name(&provision.name)?;
        if provision.remove {
            self.remove(network, &provision.name).await?;
            return Ok(None);
        }
        check_password(&provision.password)?;
        let setting = provision.settings.iter().find(|it| it.name == "connections_max");
        let connections = setting.map_or(Ok(CONNECTIONS_MAX), |it| it.value.parse())?;
        let mut admin = self.admin(network).await?;
        let (name, password) = (&provision.name, &provision.password);
        let role = format!("select 1 from pg_roles where rolname = '{name}'");
        let verb = if has_row(&mut admin, role).await? { "alter" } else { "create" };
        let role = format!(
            "{verb} role {name} with login password '{password}' nosuperuser nocreatedb nocreaterole \
             noreplication nobypassrls connection limit {connections}"
        );
        run(&mut admin, role).await?;
        let database = format!("select 1 from pg_database where datname = '{name}'");
        if !has_row(&mut admin, database).await? {
            create_database(&mut admin, name).await?;
        }
        let address = self.address();
        Ok(Some(format!("postgres://{name}:{password}@{address}/{name}")))
    }

    /// Removes a database and its role, if they are there.
    pub(super) async fn remove(&self, network: &Network, name: &str) -> Result<()> {
        check_name(name)?;
        let mut admin = self.admin(network).await?;
        drop_database(&mut admin, name).await?;
        if let Err(error) = run(&mut admin, format!("drop role if exists {name}")).await {
            // Something in another tenant's database refers to it; it can no longer log in.
            let error = format!("{error:#}");
            tracing::warn!(role = name, error, "a role of a removed database is kept");
            run(&mut admin, format!("alter role {name} nologin password null")).await?;
        }
        Ok(())
    }

    /// Puts a copy of the database `source` in place of the one of `target`. Reading and writing are logged
    /// in with no more rights than the environments have: what a dump holds runs as whoever restores it.
    pub(super) async fn copy(
        &self,
        network: &Network,
        source: &str,
        target: &Provision,
        account: Option<u32>,
    ) -> Result<()> {
        check_name(source)?;
        check_name(&target.name)?;
        check_password(&target.password)?;
        let mut admin = self.admin(network).await?;
        drop_database(&mut admin, &target.name).await?;
        create_database(&mut admin, &target.name).await?;
        let reader = format!("{}_reader", target.name);
        let secret = data_encoding::HEXLOWER.encode(&chassis::key::random());
        run(&mut admin, format!("drop role if exists {reader}")).await?;
        let role = format!("create role {reader} login password '{secret}' in role {source}");
        run(&mut admin, role).await?;
        let from = Login { user: &reader, password: &secret, database: source };
        let to = Login { user: &target.name, password: &target.password, database: &target.name };
        let copied = self.transfer(from, to, account).await;
        run(&mut admin, format!("drop role if exists {reader}")).await?;
        copied.context("the database cannot be copied")
    }

    async fn transfer(&self, from: Login<'_>, to: Login<'_>, account: Option<u32>) -> Result<()> {
        let mut dump = self.tool("pg_dump", &from, account)?;
        dump.args([
            "--format=custom",
            "--no-owner",
            "--no-privileges",
            "--lock-wait-timeout=10000",
        ]);
        let mut dump = dump.stdout(std::process::Stdio::piped()).spawn()?;
        let archive: std::process::Stdio =
            dump.stdout.take().context("no standard output")?.try_into()?;
        let mut restore = self.tool("pg_restore", &to, account)?;
        restore.args(["--no-owner", "--no-privileges", "--exit-on-error", "--dbname", to.database]);
        let mut restore = restore.stdin(archive).stdout(std::process::Stdio::null()).spawn()?;
        let errors = [dump.stderr.take(), restore.stderr.take()];
        let [dump_errors, restore_errors] = errors.map(|it| it.context("no error output"));
        let (dump_errors, restore_errors, dumped, restored) = tokio::try_join!(
            read_bounded(dump_errors?, ERROR_BYTES_MAX),
            read_bounded(restore_errors?, ERROR_BYTES_MAX),
            dump.wait(),
            restore.wait(),
        )?;
        ensure!(dumped.success(), "{}", dump_errors.trim());
        ensure!(restored.success(), "{}", restore_errors.trim());
        Ok(())
    }

    /// A tool of PostgreSQL as the environment's account, which sees nothing of this process.
    fn tool(&self, name: &str, login: &Login<'_>, account: Option<u32>) -> Result<Command> {
        let address = self.address();
        let (host, port) = address.rsplit_once(':').context("the server has no address")?;
        let mut tool = Command::new(postgres::program(name)?);
        tool.env_clear().env("PATH", PATH).env("PGHOST", host).env("PGPORT", port);
        tool.env("PGUSER", login.user).env("PGPASSWORD", login.password);
        tool.env("PGDATABASE", login.database).env("PGCONNECT_TIMEOUT", "10").current_dir("/");
        tool.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        if let Some(account) = account {
            tool.uid(account).gid(account);
        }
        tool.kill_on_drop(true);
        Ok(tool)
    }
}

/// The name of an environment's database and role.
pub(super) fn name(environment_id: &str) -> String {
    format!("env_{}", environment_id.replace('-', ""))
}

/// Names are made from ids; nothing else may stand in a statement.
fn check_name(name: &str) -> Result<()> {
    let plain = name.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_');
    ensure!(
        plain && name.starts_with("env_") && name.len() < 60,
        "{name:?} is not a database name"
    );
    Ok(())
}

/// Passwords stand in a statement, too.
fn check_password(password: &str) -> Result<()> {
    let plain = password.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it));
    ensure!(plain && password.len() >= 16, "the database's password has another form");
    Ok(())
}

/// A database that nobody but its owner connects to.
async fn create_database(admin: &mut PgConnection, name: &str) -> Result<()> {
    run(admin, format!("create database {name} owner {name} template template0")).await?;
    run(admin, format!("revoke all on database {name} from public")).await
}

/// Drops a database, whatever its owner has made of it.
async fn drop_database(admin: &mut PgConnection, name: &str) -> Result<()> {
    let exists = format!("select 1 from pg_database where datname = '{name}'");
    if has_row(admin, exists).await? {
        run(admin, format!("alter database {name} is_template false")).await?;
        run(admin, format!("drop database {name} with (force)")).await?;
    }
    Ok(())
}

/// Keeps environments out of the databases that every server has: what they leave there, or hold open, would
/// reach the others.
async fn close_common_databases(admin: &PgConnectOptions) -> Result<()> {
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
    let row = connection.fetch_optional(AssertSqlSafe(query)).await?;
    Ok(row.is_some_and(|it| it.len() == 1))
}
