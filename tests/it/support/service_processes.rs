//! Four services as processes with certificates, one PostgreSQL with a role per service, and a `nats-server`
//! with the permissions of `deploy/nats.conf`.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tenantry::{
    client::Client,
    demo::{Mailbox, Services},
};
use testkit::{Database, Nats, Process, ReservedPort, eventually, stop_deployments};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

/// Names of the services, in the order of [`ServiceProcesses::services`].
pub(crate) const NAMES: [&str; 4] = ["identity", "project", "invitation", "audit"];

/// Differences of a deployment from the default one.
#[derive(Default)]
pub(crate) struct Topology {
    /// Name of the service that runs twice.
    pub(crate) replicated: Option<&'static str>,
    /// True if other services call only the second process of that service.
    pub(crate) calls_second_only: bool,
    /// Arguments of every service.
    pub(crate) arguments: Vec<&'static str>,
}

/// The processes of a deployment.
pub(crate) struct ServiceProcesses {
    /// Clients of the services without a credential.
    pub(crate) clients: Services,
    pub(crate) mailbox: Mailbox,
    pub(crate) database: Database,
    pub(crate) services: Vec<Process>,
    folder: TempDir,
    /// URLs of the services, in the same order; of replicated ones several, with commas between them.
    urls: Vec<String>,
    _nats: Nats,
    _ports: Vec<ReservedPort>,
}

impl ServiceProcesses {
    /// Starts the services and waits until they answer.
    pub(crate) async fn start() -> Self {
        Self::start_with(Topology::default()).await
    }

    /// Starts the services, and one of them twice. The second process is the last one of `services`.
    pub(crate) async fn start_with_replica_of(replicated: Option<&'static str>) -> Self {
        Self::start_with(Topology { replicated, ..Topology::default() }).await
    }

    /// Starts the services of a topology.
    pub(crate) async fn start_with(topology: Topology) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let nats = Nats::start_with_permissions();
        let database = Database::new().await;
        let folder = tempfile::tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        let certificates = folder.path().join("certs");
        let out = format!("--out={}", certificates.display());
        let created = Process::run("tenantry", &["certs", &out, "--proxies=discovery"]);
        let error = String::from_utf8_lossy(&created.stderr);
        assert!(created.status.success(), "`tenantry certs` failed: {error}");
        let secret_key = folder.path().join("secret.key");
        let audit_key = folder.path().join("audit.key");
        let created = Process::run(
            "tenantry",
            &[
                "keys",
                &format!("--secret-key={}", secret_key.display()),
                &format!("--audit-key={}", audit_key.display()),
            ],
        );
        let error = String::from_utf8_lossy(&created.stderr);
        assert!(created.status.success(), "`tenantry keys` failed: {error}");
        let mut reserved: Vec<_> = NAMES.iter().map(|_| ReservedPort::new()).collect();
        let ports: Vec<u16> = reserved.iter().map(ReservedPort::number).collect();
        let mut urls: Vec<_> = ports.iter().map(|port| url(*port)).collect();
        let mut instances: Vec<_> = NAMES.iter().map(|name| (*name, *name)).zip(ports).collect();
        let mut called_urls = urls.clone();
        if let Some(name) = topology.replicated {
            let position = NAMES.iter().position(|it| *it == name).unwrap();
            reserved.push(ReservedPort::new());
            let port = reserved[NAMES.len()].number();
            urls[position] += &format!(",{}", url(port));
            instances.push(((NAMES[position], "replica"), port));
            called_urls[position] =
                if topology.calls_second_only { url(port) } else { urls[position].clone() };
        }
        // As in deploy/compose.yaml.
        let base_url = |name: &str| {
            let position = NAMES.iter().position(|it| *it == name).unwrap();
            urls[position].split(',').next().unwrap().to_owned()
        };
        let pages = [
            format!("--base-url={}", base_url("invitation")),
            format!("--push-url={}", base_url("project")),
        ];
        let services: Vec<_> = instances
            .into_iter()
            .map(|((name, data_dir), port)| {
                let mut more = vec![
                    format!("--listen=127.0.0.1:{port}"),
                    format!("--database-url={}", database.url_as(&format!("tenantry_{name}"))),
                    format!("--nats-url={}", nats.url_as(name)),
                    format!("--key-file={}", secret_key.display()),
                    format!("--audit-key-file={}", audit_key.display()),
                    "--local-repositories=true".to_owned(),
                    "--sign-ins-max=0".to_owned(),
                ];
                more.extend(pages.clone());
                more.extend(topology.arguments.iter().map(|it| (*it).to_owned()));
                start(&Program { binary: name, name, data_dir }, folder.path(), &called_urls, more)
            })
            .collect();
        let authority = std::fs::read_to_string(certificates.join("ca.pem")).unwrap();
        let client = async |i: usize| {
            let url = urls[i].split(',').next().unwrap();
            eventually(NAMES[i], async || Client::connect(url, Some(&authority)).await.ok()).await
        };
        let clients = Services {
            identity: client(0).await,
            project: client(1).await,
            invitation: client(2).await,
            audit: client(3).await,
        };
        let mail = |name: &str| folder.path().join(name).join("mail");
        let mailbox = Mailbox::Folders(vec![mail("identity"), mail("invitation"), mail("replica")]);
        Self { clients, mailbox, database, services, folder, urls, _nats: nats, _ports: reserved }
    }

    /// Client of the second process of the replicated service.
    pub(crate) async fn second_client(&self) -> Client {
        let url = self.urls.iter().find_map(|it| it.split_once(',')).unwrap().1;
        eventually("the second process", async || {
            Client::connect(url, Some(&self.authority())).await.ok()
        })
        .await
    }

    /// URLs of all processes of a service.
    pub(crate) fn urls_of(&self, name: &str) -> Vec<String> {
        let position = NAMES.iter().position(|it| *it == name).unwrap();
        self.urls[position].split(',').map(str::to_owned).collect()
    }

    /// A connection to one process.
    pub(crate) async fn channel(&self, url: &str) -> Channel {
        let authority = Certificate::from_pem(self.authority());
        let tls = ClientTlsConfig::new().ca_certificate(authority);
        let endpoint = Channel::from_shared(url.to_owned()).unwrap().tls_config(tls).unwrap();
        eventually("a connection", async || endpoint.connect().await.ok()).await
    }

    /// Certificate of the authority (PEM).
    pub(crate) fn authority(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("certs/ca.pem")).unwrap()
    }

    /// Starts `tenantry runner`, the runner of the shared server.
    pub(crate) fn start_runner(&self) -> Process {
        let program = Program { binary: "tenantry", name: "runner", data_dir: "runner" };
        start(&program, self.folder.path(), &self.urls, vec![])
    }

    /// Starts `tenantry discovery` on a port. Returns its URL, too.
    pub(crate) fn start_discovery(&self, port: &ReservedPort) -> (Process, String) {
        let program = Program { binary: "tenantry", name: "discovery", data_dir: "discovery" };
        let listen = format!("--listen=127.0.0.1:{}", port.number());
        let process = start(&program, self.folder.path(), &self.urls, vec![listen]);
        (process, url(port.number()))
    }

    /// Folder with the certificates, the keys, and the data directory of each process.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// URL of the first process of a service.
    pub(crate) fn url(&self, name: &str) -> &str {
        let position = NAMES.iter().position(|it| *it == name).unwrap();
        self.urls[position].split(',').next().unwrap()
    }

    /// Logs of all processes.
    pub(crate) fn logs(&self) -> String {
        let names = NAMES.iter().chain(&["replica", "runner"]);
        let log = |name: &str| std::fs::read_to_string(log_file(self.folder.path(), name));
        names.map(|name| format!("== {name}\n{}", log(name).unwrap_or_default())).collect()
    }

    /// Stops the services, which must drain, and drops the database.
    pub(crate) async fn stop(mut self) {
        for service in std::mem::take(&mut self.services) {
            assert!(service.stop(), "a service drains\n{}", self.logs());
        }
        stop_deployments(&self.folder.path().join("runner"));
        self.database.drop().await;
    }
}

/// A program of the deployment.
struct Program {
    binary: &'static str,
    /// Name in its certificate.
    name: &'static str,
    /// Its data directory, in the folder of the deployment.
    data_dir: &'static str,
}

/// Starts a program.
fn start(program: &Program, folder: &Path, urls: &[String], more: Vec<String>) -> Process {
    let Program { binary, name, data_dir } = *program;
    let certificates = folder.join("certs");
    let file = |file: String| certificates.join(file).to_string_lossy().into_owned();
    let subcommand = (binary != name).then(|| name.to_owned());
    let mut arguments: Vec<String> = subcommand.into_iter().collect();
    arguments.extend([
        format!("--data-dir={}", folder.join(data_dir).display()),
        format!("--tls-cert={}", file(format!("{name}.pem"))),
        format!("--tls-key={}", file(format!("{name}.key"))),
        format!("--tls-ca={}", file("ca.pem".to_owned())),
    ]);
    let peers = NAMES.iter().zip(urls);
    arguments.extend(peers.map(|(peer, urls)| format!("--{peer}-url={urls}")));
    arguments.extend(more);
    Process::start(binary, &arguments, &log_file(folder, data_dir))
}

fn log_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

fn url(port: u16) -> String {
    format!("https://localhost:{port}")
}
