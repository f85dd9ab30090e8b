//! The databases of environments: on a PostgreSQL that the operator names, or on one of the runner's own.
//! That one goes on when the runner ends, like everything that is deployed.

use std::{net::TcpListener, path::PathBuf};

use anyhow::{Context, Result, ensure};
use api::project::Provision;
use chassis::postgres::{self, Postgres};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, postgres::PgConnectOptions};
use tokio::{process::Command, sync::OnceCell};

use super::release::output;

/// A PostgreSQL on which environments get databases.
pub(super) struct Databases {
    folder: PathBuf,
    named: Option<String>,
    server: OnceCell<Server>,
}

struct Server {
    /// As its administrator.
    admin: PgConnectOptions,
    /// Where programs reach it: `host:port`.
    address: String,
}

impl Databases {
    /// `named` is the address of an administrator, `postgres://…`; without it, a server of our own below
    /// `folder`, which starts when the first environment needs it.
    pub(super) fn new(folder: PathBuf, named: Option<String>) -> Self {
        Self { folder, named, server: OnceCell::new() }
    }

    /// Where programs reach it, if somebody has needed it.
    pub(super) fn address(&self) -> String {
        self.server.get().map(|it| it.address.clone()).unwrap_or_default()
    }

    /// Whether there is one, or an earlier runner has made one.
    pub(super) fn is_there(&self) -> bool {
        self.named.is_some() || self.server.get().is_some() || self.folder.join("postgres").exists()
    }

    async fn server(&self) -> Result<&Server> {
        self.server.get_or_try_init(|| self.start()).await
    }

    /// Starts what an earlier runner left, so that programs find their databases.
    pub(super) async fn adopt(&self) {
        if self.is_there()
            && let Err(error) = self.server().await
        {
            tracing::warn!(
                error = format!("{error:#}"),
                "the databases of environments do not start"
            );
        }
    }

    async fn start(&self) -> Result<Server> {
        if let Some(url) = &self.named {
            let admin: PgConnectOptions = url.parse().context("--database-url is no address")?;
            let address = format!("{}:{}", admin.get_host(), admin.get_port());
            return Ok(Server { admin, address });
        }
        std::fs::create_dir_all(&self.folder)?;
        let file = self.folder.join("port");
        let known = std::fs::read_to_string(&file).ok();
        let port = if let Some(port) = known.and_then(|it| it.trim().parse().ok()) {
            port
        } else {
            let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            std::fs::write(&file, free.to_string())?;
            free
        };
        let server = Postgres::start_for_others(&self.folder, port).await;
        let server = server.context("PostgreSQL for environments does not start")?;
        let admin = server.options();
        // It outlives this value on purpose.
        drop(server);
        Ok(Server { admin, address: format!("127.0.0.1:{port}") })
    }

    async fn admin(&self, database: &str) -> Result<PgConnection> {
        let admin = self.server().await?.admin.clone().database(database);
        PgConnection::connect_with(&admin)
            .await
            .context("PostgreSQL for environments does not answer")
    }

    /// Brings about one service; answers what the program is told, unless the service goes.
    pub(super) async fn provide(&self, it: &Provision) -> Result<Option<String>> {
        ensure!(it.service_key == "postgresql", "this runner cannot provide {}", it.service_key);
        check(&it.name)?;
        if it.remove {
            self.remove(&it.name).await?;
            return Ok(None);
        }
        let plain = it.password.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it));
        ensure!(plain && !it.password.is_empty(), "the password is none");
        let connections = it.settings.iter().find(|it| it.name == "connections_max");
        let connections: i32 = connections.map_or(Ok(20), |it| it.value.parse())?;
        let mut admin = self.admin("postgres").await?;
        let (name, password) = (&it.name, &it.password);
        let role = format!("select 1 from pg_roles where rolname = '{name}'");
        let verb = if exists(&mut admin, role).await? { "alter" } else { "create" };
        run(
            &mut admin,
            format!(
                "{verb} role {name} with login password '{password}' nosuperuser nocreatedb nocreaterole \
                 connection limit {connections}"
            ),
        )
        .await?;
        if !exists(&mut admin, format!("select 1 from pg_database where datname = '{name}'"))
            .await?
        {
            run(&mut admin, format!("create database {name} owner {name}")).await?;
        }
        // Nobody but its owner.
        run(&mut admin, format!("revoke all on database {name} from public")).await?;
        let address = self.address();
        Ok(Some(format!("postgres://{name}:{password}@{address}/{name}")))
    }

    /// Removes a database and its role, if they are there.
    pub(super) async fn remove(&self, name: &str) -> Result<()> {
        check(name)?;
        let mut admin = self.admin("postgres").await?;
        run(&mut admin, format!("drop database if exists {name} with (force)")).await?;
        run(&mut admin, format!("drop role if exists {name}")).await
    }

    /// Puts a copy of one database in place of another.
    pub(super) async fn copy(&self, from: &str, to: &str) -> Result<()> {
        check(from)?;
        check(to)?;
        let server = self.server().await?;
        let mut admin = self.admin("postgres").await?;
        run(&mut admin, format!("drop database if exists {to} with (force)")).await?;
        run(&mut admin, format!("create database {to} owner {to}")).await?;
        run(&mut admin, format!("revoke all on database {to} from public")).await?;
        let dump = postgres::program("pg_dump")?;
        let restore = postgres::program("pg_restore")?;
        let script =
            format!("set -e; \"$0\" -Fc -d {from} | \"$1\" --no-owner --role={to} -d {to}");
        let mut copy = Command::new("bash");
        copy.args(["-o", "pipefail", "-c", &script]).arg(dump).arg(restore);
        let host = server.admin.get_socket().map_or_else(
            || server.admin.get_host().to_owned(),
            |it| it.to_string_lossy().into_owned(),
        );
        copy.env("PGHOST", host).env("PGPORT", server.admin.get_port().to_string());
        copy.env("PGUSER", server.admin.get_username());
        output(copy).await.context("the database cannot be copied").map(|_| ())
    }
}

/// What the database of an environment is called.
pub(super) fn name(environment_id: &str) -> String {
    format!("env_{}", environment_id.replace('-', ""))
}

/// Names come from ids; nothing else may stand in a statement.
fn check(name: &str) -> Result<()> {
    let plain = name.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_');
    ensure!(plain && name.starts_with("env_") && name.len() < 60, "{name} is no name");
    Ok(())
}

async fn run(connection: &mut PgConnection, statement: String) -> Result<()> {
    connection.execute(AssertSqlSafe(statement)).await?;
    Ok(())
}

async fn exists(connection: &mut PgConnection, question: String) -> Result<bool> {
    let row = connection.fetch_optional(AssertSqlSafe(question)).await?;
    Ok(row.is_some_and(|it| it.len() == 1))
}
