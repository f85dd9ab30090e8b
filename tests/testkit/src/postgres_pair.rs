//! A PostgreSQL server and its synchronous standby, for fail-overs.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use embedded_postgres::program;
use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tempfile::TempDir;

use crate::{ReservedPort, eventually, process::NOBODY};

/// Name of the standby for its primary, which waits for it with each commit.
const STANDBY: &str = "standby";

/// Two servers that accept every user without a password, with the database `tenantry`; killed with the test.
pub struct PostgresPair {
    primary: Server,
    standby: Server,
    folder: TempDir,
}

struct Server {
    name: &'static str,
    port: ReservedPort,
    child: Option<Child>,
}

impl PostgresPair {
    /// Creates and starts both servers, and waits until commits wait for the standby.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        give_to_server(folder.path(), 0o755);
        let server = |name| Server { name, port: ReservedPort::new(), child: None };
        let (primary, standby) = (server("first"), server("second"));
        let mut pair = Self { primary, standby, folder };
        for name in ["first", "second"] {
            let data = pair.folder.path().join(name);
            fs::create_dir(&data).expect("a new directory");
            give_to_server(&data, 0o700);
        }
        let initialize = ["--username=tenantry", "--auth=trust", "--encoding=UTF8", "--no-sync"];
        run("initdb", &initialize, &pair.folder.path().join("first"));
        pair.primary.start(pair.folder.path());
        let mut owner = pair.primary.connect("postgres").await;
        owner.execute("create database tenantry").await.expect("a new database");
        let source = format!(
            "--dbname=host=127.0.0.1 port={} user=tenantry application_name={STANDBY}",
            pair.primary.port.number()
        );
        let copy = [source.as_str(), "--write-recovery-conf", "--checkpoint=fast", "--no-sync"];
        run("pg_basebackup", &copy, &pair.folder.path().join("second"));
        pair.standby.start(pair.folder.path());
        // After the copy: the standby waits for no other server when it is the primary.
        for statement in
            ["alter system set synchronous_standby_names = standby", "select pg_reload_conf()"]
        {
            owner.execute(statement).await.expect("the setting can be changed");
        }
        let is_synchronous = async || {
            let mut connection = pair.primary.connect("postgres").await;
            let state = "select sync_state from pg_stat_replication";
            let state: Option<String> =
                sqlx::query_scalar(state).fetch_optional(&mut connection).await.ok()?;
            (state? == "sync").then_some(())
        };
        eventually("the synchronous standby", is_synchronous).await;
        pair
    }

    /// URL of the database with the addresses of both servers, for a role.
    pub fn url_as(&self, user: &str) -> String {
        let [first, second] = [&self.primary, &self.standby].map(|it| it.port.number());
        format!("postgres://{user}@127.0.0.1:{first},127.0.0.1:{second}/tenantry")
    }

    /// Kills the primary (`SIGKILL`).
    pub fn kill_primary(&mut self) {
        self.primary.kill();
    }

    /// Makes the standby the primary, and waits until it accepts writes.
    pub async fn promote_standby(&self) {
        let mut standby = self.standby.connect("postgres").await;
        let promoted = sqlx::query_scalar("select pg_promote()").fetch_one(&mut standby);
        let promoted: bool = promoted.await.expect("the standby answers");
        assert!(promoted, "the standby is promoted");
    }
}

impl Server {
    fn start(&mut self, folder: &Path) {
        let log = folder.join(format!("{}.log", self.name));
        let log = fs::File::options().create(true).append(true).open(log).expect("a log file");
        let mut command = Command::new(program("postgres").expect("PostgreSQL is installed"));
        command.arg("-D").arg(folder.join(self.name));
        command.arg("-k").arg(folder).args(["-p", &self.port.number().to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=150"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file handle")).stderr(log);
        self.child = Some(unprivileged(&mut command).spawn().expect("PostgreSQL starts"));
    }

    async fn connect(&self, database: &str) -> PgConnection {
        let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1");
        let options = options.port(self.port.number()).username("tenantry").database(database);
        eventually(&format!("the {} server", self.name), async || {
            PgConnection::connect_with(&options).await.ok()
        })
        .await
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the server can be killed");
            child.wait().expect("the server ends");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program of PostgreSQL that writes a data directory.
fn run(name: &str, arguments: &[&str], data: &Path) {
    let mut command = Command::new(program(name).expect("PostgreSQL is installed"));
    command.args(arguments).arg("-D").arg(data);
    let output = unprivileged(&mut command).output().expect("the program runs");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a command as `nobody` if the test runs as root, which PostgreSQL refuses.
fn unprivileged(command: &mut Command) -> &mut Command {
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.current_dir("/")
}

/// Gives a directory to the account of the servers.
fn give_to_server(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the mode can be changed");
    if rustix::process::geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("the owner can be changed");
    }
}
