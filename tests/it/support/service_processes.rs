//! Four services as processes with certificates, one PostgreSQL with a role per service, and a `nats-server`
//! with the permissions of `deploy/nats.conf`.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tenantry::{
    client::Client,
    demo::{Mailbox, Services},
};
use testkit::{Database, Nats, Process, eventually, stop_deployments};

/// Names of the services, in the order of [`ServiceProcesses::services`].
pub(crate) const NAMES: [&str; 4] = ["identity", "project", "invitation", "audit"];

/// The processes of a deployment.
pub(crate) struct ServiceProcesses {
    /// Clients of the services without a credential.
    pub(crate) clients: Services,
    pub(crate) mailbox: Mailbox,
    pub(crate) database: Database,
    pub(crate) services: Vec<Process>,
    folder: TempDir,
    ports: Vec<u16>,
    _nats: Nats,
}

impl ServiceProcesses {
    /// Starts the services and waits until they answer.
    pub(crate) async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let nats = Nats::start_with_permissions();
        let database = Database::new().await;
        let folder = tempfile::tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        let certificates = folder.path().join("certs");
        let created =
            Process::run("tenantry", &["certs", "--out", &certificates.to_string_lossy()]);
        let error = String::from_utf8_lossy(&created.stderr);
        assert!(created.status.success(), "`tenantry certs` failed: {error}");
        let ports: Vec<u16> = (0..NAMES.len()).map(|_| free_port()).collect();
        let services: Vec<_> = NAMES
            .iter()
            .zip(&ports)
            .map(|(name, port)| {
                let more = vec![
                    format!("--listen=127.0.0.1:{port}"),
                    format!("--database-url={}", database.url_as(&format!("tenantry_{name}"))),
                    format!("--nats-url={}", nats.url_as(name)),
                    "--local-repositories=true".to_owned(),
                    "--sign-ins-max=0".to_owned(),
                ];
                start(name, name, folder.path(), &ports, more)
            })
            .collect();
        let authority = std::fs::read_to_string(certificates.join("ca.pem")).unwrap();
        let client = async |i: usize| {
            let url = url(ports[i]);
            eventually(NAMES[i], async || Client::connect(&url, Some(&authority)).await.ok()).await
        };
        let clients = Services {
            identity: client(0).await,
            project: client(1).await,
            invitation: client(2).await,
            audit: client(3).await,
        };
        let mail = |name: &str| folder.path().join(name).join("mail");
        let mailbox = Mailbox::new(vec![mail("identity"), mail("invitation")]);
        Self { clients, mailbox, database, services, folder, ports, _nats: nats }
    }

    /// Starts `tenantry runner`, the runner of the shared server.
    pub(crate) fn start_runner(&self) -> Process {
        start("tenantry", "runner", self.folder.path(), &self.ports, vec![])
    }

    /// Logs of all processes.
    pub(crate) fn logs(&self) -> String {
        let names = NAMES.iter().chain(&["runner"]);
        let log = |name: &str| std::fs::read_to_string(log_file(self.folder.path(), name));
        names.map(|name| format!("== {name}\n{}", log(name).unwrap_or_default())).collect()
    }

    /// Stops the services, which must drain, and drops the database.
    pub(crate) async fn stop(mut self) {
        for (service, name) in std::mem::take(&mut self.services).into_iter().zip(NAMES) {
            assert!(service.stop(), "{name} does not drain\n{}", self.logs());
        }
        stop_deployments(&self.folder.path().join("runner"));
        self.database.drop().await;
    }
}

/// Starts a service, or the subcommand `name` of `tenantry`, with the certificate of `name`.
fn start(program: &str, name: &str, folder: &Path, ports: &[u16], more: Vec<String>) -> Process {
    let certificates = folder.join("certs");
    let file = |file: String| certificates.join(file).to_string_lossy().into_owned();
    let subcommand = (program != name).then(|| name.to_owned());
    let mut arguments: Vec<String> = subcommand.into_iter().collect();
    arguments.extend([
        format!("--data-dir={}", folder.join(name).display()),
        format!("--tls-cert={}", file(format!("{name}.pem"))),
        format!("--tls-key={}", file(format!("{name}.key"))),
        format!("--tls-ca={}", file("ca.pem".to_owned())),
    ]);
    let peers = NAMES.iter().zip(ports);
    arguments.extend(peers.map(|(peer, port)| format!("--{peer}-url={}", url(*port))));
    arguments.extend(more);
    Process::start(program, &arguments, &log_file(folder, name))
}

fn log_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

fn url(port: u16) -> String {
    format!("https://localhost:{port}")
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
