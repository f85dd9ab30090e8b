//! Start without a database, readiness, and the health checks of probes.

use std::{net::SocketAddr, path::Path};

use testkit::{Database, Process, ReservedPort, eventually};
use tokio::{net::UnixStream, task::JoinSet};

/// A TCP port that forwards to the Unix socket of the database while it is open.
struct DatabasePort {
    port: ReservedPort,
    socket: std::path::PathBuf,
}

impl DatabasePort {
    fn new(database: &Database) -> Self {
        let folder = database.options.get_socket().unwrap();
        let socket = folder.join(format!(".s.PGSQL.{}", database.options.get_port()));
        Self { port: ReservedPort::new(), socket }
    }

    /// Opens the port until the returned value is dropped, which also ends its connections.
    async fn open(&self) -> JoinSet<()> {
        let listener = self.port.listen().await;
        let socket = self.socket.clone();
        let mut port = JoinSet::new();
        port.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let mut server = UnixStream::connect(&socket).await.unwrap();
                connections.spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        port
    }
}

/// Status and body of `GET path`; `None` if there is no response.
async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let response = reqwest::get(format!("http://{address}{path}")).await.ok()?;
    Some((response.status().as_u16(), response.text().await.ok()?))
}

fn address(port: &ReservedPort) -> SocketAddr {
    ([127, 0, 0, 1], port.number()).into()
}

fn healthcheck(arguments: &[&str]) -> bool {
    Process::run("tenantry", &[&["healthcheck"], arguments].concat()).status.success()
}

/// A process starts before its database, waits for it, and reports the loss and the return of the database.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_database() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let database = Database::new().await;
    let port = DatabasePort::new(&database);
    let folder = tempfile::tempdir().unwrap();
    make_enterable(folder.path());
    let health_port = ReservedPort::new();
    let grpc_port = ReservedPort::new();
    let health = address(&health_port);
    let grpc = address(&grpc_port);
    let name = database.options.get_database().unwrap();
    let url =
        format!("postgres://tenantry@127.0.0.1:{}/{name}?sslmode=disable", port.port.number());
    let log = folder.path().join("log");
    let process = Process::start(
        "tenantry",
        &[
            format!("--data-dir={}", folder.path().join("data").display()),
            format!("--listen={grpc}"),
            format!("--health-listen={health}"),
            format!("--database-url={url}"),
            "--allow-weak-isolation=true".to_owned(),
        ],
        &log,
    );
    let logs = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("a retry", async || logs().contains("the database does not respond").then_some(()))
        .await;
    assert_eq!(get(health, "/livez").await.unwrap().0, 200);
    let (status, text) = get(health, "/readyz").await.unwrap();
    assert_eq!((status, text.contains("waiting for the database")), (503, true), "{text}");
    let by_port = format!("--health-listen={health}");
    assert!(!healthcheck(&[&by_port]), "ready without a database");

    let open = port.open().await;
    let is_ready = async |status: u16| {
        eventually("readiness", async || (get(health, "/readyz").await?.0 == status).then_some(()))
            .await;
    };
    is_ready(200).await;
    let by_grpc = format!("--endpoint=http://{grpc}");
    let of_service = "--service=tenantry.identity.v1.UserService";
    assert!(healthcheck(&[&by_port]) && healthcheck(&[&by_grpc, of_service]), "{}", logs());

    drop(open);
    is_ready(503).await;
    assert_eq!(get(health, "/livez").await.unwrap().0, 200, "the process lives");
    assert!(!healthcheck(&[&by_grpc]) && !healthcheck(&[&by_grpc, of_service]));
    let _open = port.open().await;
    is_ready(200).await;
    assert!(healthcheck(&[&by_grpc]) && healthcheck(&[&by_grpc, of_service]));
    assert!(process.stop(), "{}", logs());
    testkit::stop_deployments(&folder.path().join("data/runner"));
    database.drop().await;
}

/// Deployed code of another account passes through the folder.
fn make_enterable(folder: &Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder, mode).unwrap();
}

/// With --migrate false, a process does not migrate, but waits until another has.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_can_leave_migrations_to_another() {
    let database = Database::new().await;
    let mut owner =
        <sqlx::PgConnection as sqlx::Connection>::connect(&database.url()).await.unwrap();
    sqlx::Executor::execute(&mut owner, "drop schema identity cascade").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", folder.path().display());
    let url = format!("--database-url={}", database.url());
    let start = ["--listen=127.0.0.1:0", "--migrate=false", "--database-patience-s=0", &data, &url];
    let refused = Process::run("tenantry", &start);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("the schema identity has pending migrations"), "{error}");
    assert!(error.contains("run `tenantry migrate`"), "{error}");
    let migrated = Process::run("identity", &["migrate", &data, &url]);
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    let version = "select count(*) from identity._sqlx_migrations";
    let applied: i64 = sqlx::query_scalar(version).fetch_one(&mut owner).await.unwrap();
    assert!(applied > 0);
    database.drop().await;
}
