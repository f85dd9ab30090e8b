//! Fewer database connections than the services want, and background tasks whose first step fails.

use std::{
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
};

use chassis::{Db, FaultInjection, clock::Clock, key::Key};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tenantry::{client::Client, demo::Mailbox};
use testkit::{Database, Person, Process, ReservedPort, Suite, eventually};

use super::startup::{data_dir, start_error};
use crate::support::audit_client::AuditClient;

/// A PostgreSQL server with few connections, owned by an unprivileged account.
struct SmallServer {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl SmallServer {
    async fn start(connections_max: u32) -> Self {
        Self::start_on(connections_max, None).await
    }

    /// Starts a server that also listens on a TCP port.
    async fn start_on(connections_max: u32, port: Option<&ReservedPort>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = path.join("data").display().to_string();
        let init = ["-D", &data, "-U", "tenantry", "--auth=trust", "-E", "UTF8", "--no-sync"];
        let created = command("initdb", &path).args(init).output().unwrap();
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        let socket = path.display().to_string();
        let limit = format!("max_connections={connections_max}");
        let listen =
            if port.is_some() { "listen_addresses=127.0.0.1" } else { "listen_addresses=" };
        let port = port.map_or(5432, ReservedPort::number);
        let number = port.to_string();
        let settings =
            ["-c", &limit, "-c", listen, "-c", "fsync=off", "-k", &socket, "-p", &number];
        let mut server = command("postgres", &path);
        let child = server.args(["-D", &data]).args(settings).spawn().unwrap();
        let server = Self { child, folder, port };
        let url = server.url();
        eventually("the server", async || PgConnection::connect(&url).await.ok()).await;
        server
    }

    fn url(&self) -> String {
        let folder = self.folder.path().display();
        format!("postgres://tenantry@localhost:{}/postgres?host={folder}", self.port)
    }
}

impl Drop for SmallServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User id and group id of the account `nobody`.
const NOBODY: u32 = 65_534;

/// Command for a program of PostgreSQL, which refuses to run as root.
fn command(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(embedded_postgres::program(program).unwrap());
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// The server probes the connections of the services, so that it ends those of a machine that is gone, with
/// their locks. Its own default is two hours.
#[tokio::test]
async fn the_server_notices_that_a_machine_is_gone() {
    let port = ReservedPort::new();
    let server = SmallServer::start_on(20, Some(&port)).await;
    let url = format!("postgres://tenantry@127.0.0.1:{}/postgres", port.number());
    let options: PgConnectOptions = url.parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = Key::read_or_create(&folder.path().join("secret.key")).unwrap();
    let faults = FaultInjection::default();
    let db = Db::new("identity", options, Clock::default(), faults, &key, 4);
    let mut connection = db.pool().acquire().await.unwrap();
    let mut setting = async |name: &str| -> String {
        let show = sqlx::AssertSqlSafe(format!("show {name}"));
        sqlx::query_scalar(show).fetch_one(&mut *connection).await.unwrap()
    };
    assert_eq!(setting("tcp_keepalives_idle").await, "5");
    assert_eq!(setting("tcp_keepalives_interval").await, "2");
    assert_eq!(setting("tcp_keepalives_count").await, "3");
    assert_eq!(setting("tcp_user_timeout").await, "10000", "milliseconds");
    drop(connection);
    db.close().await;
    drop(server);
}

/// With 20 connections the suite starts with a warning that has both numbers and the setting, and works.
#[tokio::test(flavor = "multi_thread")]
async fn the_suite_works_with_few_connections() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let server = SmallServer::start(20).await;
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let log = folder.path().join("log");
    let arguments = [
        data_dir(folder.path()),
        format!("--listen=127.0.0.1:{port}"),
        format!("--database-url={}", server.url()),
        "--allow-weak-isolation=true".to_owned(),
    ];
    let process = Process::start("tenantry", &arguments, &log);
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the start", async || text().contains("Tenantry listens").then_some(())).await;
    let client = Client::connect(&format!("http://127.0.0.1:{port}"), None).await.unwrap();
    let text = text();
    for part in [
        "the database allows 20 connections (max_connections = 20)",
        "this process opens up to 65",
        "--database-connections-max to 4",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let mailbox = Mailbox::Folders(vec![folder.path().join("mail")]);
    let ann = Person::join(&client, &mailbox, "ann@example.com").await.unwrap();
    let org = ann.create_organization("acme").await.unwrap();
    let list = json!({ "orgId": org, "filter": { "action": "organization.created" } });
    eventually("the entry", async || {
        let page = ann.call("audit.v1.AuditService/ListEntries", list.clone()).await.ok()?;
        page["entries"].as_array().is_some_and(|it| !it.is_empty()).then_some(())
    })
    .await;
    assert!(process.stop(), "{}", std::fs::read_to_string(&log).unwrap());
    testkit::stop_deployments(&folder.path().join("runner"));
}

/// A server, a role or a database with too few connections for the services is refused before a table is
/// created, with both numbers and the setting.
#[tokio::test(flavor = "multi_thread")]
async fn too_few_connections_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    let start =
        |url: &str| start_error(&[&data, "--listen=127.0.0.1:0", &format!("--database-url={url}")]);
    let server = SmallServer::start(12).await;
    let error = start(&server.url());
    for part in ["allows 12 connections", "max_connections = 12", "at least 17", "to 65"] {
        assert!(error.contains(part), "{error}");
    }
    let database = Database::new().await;
    let mut admin = PgConnection::connect(&database.url()).await.unwrap();
    let name = database.options.get_database().unwrap();
    let role = format!("limited_{name}");
    let create = format!("create role {role} login connection limit 9");
    admin.execute(sqlx::AssertSqlSafe(create)).await.unwrap();
    let error = start(&database.url_as(&role));
    assert!(
        error.contains(&format!("allows 9 connections (the connection limit of the role {role})"))
    );
    let limit = format!("alter database {name} connection limit 7");
    admin.execute(sqlx::AssertSqlSafe(limit)).await.unwrap();
    let error = start(&database.url_as(&role));
    assert!(error.contains(&format!("the connection limit of the database {name}")), "{error}");
    admin.execute(sqlx::AssertSqlSafe(format!("drop role {role}"))).await.unwrap();
    database.drop().await;
}

/// The first step of signing fails while its table is locked. The process goes on, and signing starts as soon
/// as the table can be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_background_task_repeats_its_first_step() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    suite.wait_for_log().await;
    let url = suite.database_url();
    let stopped = suite.halt().await;
    let mut lock = PgConnection::connect(&url).await.unwrap();
    lock.execute("begin; lock table audit.tree in access exclusive mode").await.unwrap();
    let suite = stopped.start().await;
    // The statement of the first step, which has a time-out of two seconds.
    let started = "select min(query_start)::text from pg_stat_activity
                   where datname = current_database() and wait_event_type = 'Lock'
                     and query = 'select org_id, size from tree'";
    let started = async || {
        let started = sqlx::query_scalar::<_, Option<String>>(started);
        started.fetch_one(&suite.pool).await.unwrap()
    };
    let first = eventually("the first step", started).await;
    eventually("its repetition", async || started().await.filter(|it| *it != first)).await;
    lock.execute("rollback").await.unwrap();
    let ann = Person { client: suite.client.with_token(&ann.token), ..ann };
    AuditClient::new(&suite, &ann, &org).await.checkpoint(&suite).await;
    suite.finish().await;
}
