//! Two replicas of each service as processes with certificates, on one PostgreSQL and a NATS cluster of three
//! nodes that each store every event.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use tempfile::TempDir;
use tenantry::{client::Client, demo::Mailbox};
use testkit::{
    NatsCluster, Person, Process, ReservedPort, eventually,
    load::{Endpoints, Tenant},
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

use super::{
    authority::{Authority, replace},
    raw,
    service_processes::NAMES,
    world::add_member,
};

/// Number of replicas of each service.
const REPLICAS: usize = 2;
/// Number of members of the organization under load, one for each worker.
const MEMBERS: usize = 4;
/// Time-out of a connection attempt of a client.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// `grpc.health.v1.HealthCheckResponse` with the status SERVING.
const SERVING: &[u8] = &[8, 1];

/// Name of the line in the log of a process that has loaded new TLS files.
const TLS_RELOADED: &str = "new TLS files are used for new connections";

/// The processes of a deployment.
pub(crate) struct Cluster {
    pub(crate) nats: NatsCluster,
    pub(crate) authority: Authority,
    replicas: Vec<Replica>,
    folder: TempDir,
}

/// A replica of a service.
struct Replica {
    service: &'static str,
    /// Name of its data directory and its log.
    name: String,
    port: ReservedPort,
    arguments: Vec<String>,
    /// `None` between a stop and the next start.
    process: Option<Process>,
}

impl Cluster {
    /// Starts all replicas on a database and waits until they serve. `database_url` returns the URL for a
    /// service; `more` are further arguments of every process.
    pub(crate) async fn start(database_url: impl Fn(&str) -> String, more: &[&str]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let nats = NatsCluster::start_with_permissions().await;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("certs")).unwrap();
        let keys = ["secret", "audit"].map(|it| {
            format!("--{it}-key={}", folder.path().join(it).with_extension("key").display())
        });
        let created = Process::run("tenantry", &["keys", &keys[0], &keys[1]]);
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        let mut cluster =
            Self { nats, authority: Authority::new("first"), replicas: vec![], folder };
        let authority = cluster.authority.pem();
        cluster.write_authorities(&[&authority]);
        cluster.write_certificates();
        cluster.add_replicas(database_url, more);
        for index in 0..cluster.replicas.len() {
            cluster.launch(index);
        }
        for index in 0..cluster.replicas.len() {
            cluster.wait_until_serving(index).await;
        }
        cluster
    }

    fn add_replicas(&mut self, database_url: impl Fn(&str) -> String, more: &[&str]) {
        let ports: Vec<[ReservedPort; REPLICAS]> =
            NAMES.iter().map(|_| std::array::from_fn(|_| ReservedPort::new())).collect();
        let urls = |ports: &[ReservedPort; REPLICAS]| ports.each_ref().map(url).join(",");
        let peers: Vec<_> = NAMES
            .iter()
            .zip(&ports)
            .map(|(name, ports)| format!("--{name}-url={}", urls(ports)))
            .collect();
        for (service, ports) in NAMES.iter().zip(ports) {
            for (number, port) in ports.into_iter().enumerate() {
                let name = format!("{service}-{number}");
                let mut arguments = self.arguments(service, &name);
                arguments.push(format!("--listen=127.0.0.1:{}", port.number()));
                arguments.push(format!("--database-url={}", database_url(service)));
                arguments.extend(peers.clone());
                arguments.extend(more.iter().map(|it| (*it).to_owned()));
                self.replicas.push(Replica { service, name, port, arguments, process: None });
            }
        }
    }

    fn arguments(&self, service: &str, name: &str) -> Vec<String> {
        let path = |file: String| self.folder.path().join(file).display().to_string();
        let url = self.nats.url_as(service);
        vec![
            format!("--data-dir={}", path(name.to_owned())),
            format!("--tls-cert={}", path(format!("certs/{service}.pem"))),
            format!("--tls-key={}", path(format!("certs/{service}.key"))),
            format!("--tls-ca={}", path("certs/ca.pem".to_owned())),
            format!("--key-file={}", path("secret.key".to_owned())),
            format!("--audit-key-file={}", path("audit.key".to_owned())),
            format!("--nats-url={url}"),
            "--nats-stream-replicas=3".to_owned(),
            "--database-connections-max=8".to_owned(),
            "--sign-ins-max=0".to_owned(),
            "--invitations-max=0".to_owned(),
        ]
    }

    /// Number of processes.
    pub(crate) fn len(&self) -> usize {
        self.replicas.len()
    }

    /// Starts a replica without waiting for it.
    fn launch(&mut self, index: usize) {
        let replica = &mut self.replicas[index];
        let log = log_file(self.folder.path(), &replica.name);
        replica.process = Some(Process::start(replica.service, &replica.arguments, &log));
    }

    /// Starts a replica and waits until it serves.
    pub(crate) async fn start_replica(&mut self, index: usize) {
        self.launch(index);
        self.wait_until_serving(index).await;
    }

    async fn wait_until_serving(&self, index: usize) {
        let replica = &self.replicas[index];
        let channel = channel(&replica.port, &self.authorities());
        eventually(&format!("the start of {}", replica.name), async || {
            let method = "grpc.health.v1.Health/Check";
            let answer = raw::call(&channel, method, None, vec![]).await.ok()?;
            (answer == SERVING).then_some(())
        })
        .await;
    }

    /// Terminates a replica (`SIGTERM`), which must drain.
    pub(crate) fn stop_replica(&mut self, index: usize) {
        let process = self.replicas[index].process.take().expect("the replica is running");
        let drained = tokio::task::block_in_place(|| process.stop());
        assert!(drained, "{} does not drain\n{}", self.replicas[index].name, self.logs());
    }

    /// Restarts the replica with a number, 0 or 1, of each service.
    pub(crate) async fn restart_half(&mut self, number: usize) {
        let indexes: Vec<_> = (number..self.len()).step_by(REPLICAS).collect();
        for index in &indexes {
            self.stop_replica(*index);
        }
        for index in &indexes {
            self.launch(*index);
        }
        for index in &indexes {
            self.wait_until_serving(*index).await;
        }
    }

    /// Index of the first replica of a service.
    pub(crate) fn replica_of(&self, service: &str) -> usize {
        self.replicas.iter().position(|it| it.service == service).unwrap()
    }

    /// Client of the first replica of a service.
    pub(crate) async fn client(&self, service: &str) -> Client {
        let replica = &self.replicas[self.replica_of(service)];
        Client::connect(&url(&replica.port), Some(&self.authorities())).await.unwrap()
    }

    /// Kills a replica (`SIGKILL`).
    pub(crate) fn kill_replica(&mut self, index: usize) {
        self.replicas[index].process.take().expect("the replica is running").kill();
    }

    /// Runs the program of a replica to its end with the same arguments and a data directory of its own; it
    /// must refuse to start. Returns its error.
    pub(crate) fn start_error(&self, index: usize) -> String {
        let replica = &self.replicas[index];
        let data = format!("--data-dir={}", self.folder.path().join("refused").display());
        let changes = [data, "--listen=127.0.0.1:0".to_owned()];
        let is_replaced =
            |it: &&String| it.starts_with("--data-dir=") || it.starts_with("--listen=");
        let kept = replica.arguments.iter().filter(|it| !is_replaced(it));
        let arguments: Vec<_> = kept.chain(&changes).map(String::as_str).collect();
        let ended = tokio::task::block_in_place(|| Process::run(replica.service, &arguments));
        assert!(!ended.status.success(), "{} starts", replica.service);
        String::from_utf8_lossy(&ended.stderr).into_owned()
    }

    /// Path of a file in the folder of the deployment.
    pub(crate) fn path(&self, file: &str) -> std::path::PathBuf {
        self.folder.path().join(file)
    }

    /// Certificates of the authorities that the processes trust (PEM).
    fn authorities(&self) -> String {
        fs::read_to_string(self.path("certs/ca.pem")).unwrap()
    }

    /// Replaces the authorities that the processes trust.
    pub(crate) fn write_authorities(&self, authorities: &[&str]) {
        replace(&self.path("certs/ca.pem"), &authorities.concat());
    }

    /// Replaces the certificate and the key of each service.
    pub(crate) fn write_certificates(&self) {
        for name in NAMES {
            self.authority.write(&self.path("certs"), name);
        }
    }

    /// Waits until each process has loaded new TLS files `count` times, since it was started first.
    pub(crate) async fn wait_for_tls_reload(&self, count: usize) {
        for replica in &self.replicas {
            let log = log_file(self.folder.path(), &replica.name);
            eventually(&format!("new TLS files of {}", replica.name), async || {
                let log = fs::read_to_string(&log).unwrap();
                (log.matches(TLS_RELOADED).count() >= count).then_some(())
            })
            .await;
        }
    }

    /// Prints the warnings and errors in the logs of the processes.
    #[expect(clippy::print_stderr, reason = "the causes of a failed test")]
    pub(crate) fn print_warnings(&self) {
        for replica in &self.replicas {
            let log = fs::read_to_string(log_file(self.folder.path(), &replica.name)).unwrap();
            for line in log.lines().filter(|it| it.contains("WARN") || it.contains("ERROR")) {
                eprintln!("{}: {line}", replica.name);
            }
        }
    }

    /// Connections to all replicas, of a client that trusts the authorities of the processes.
    pub(crate) fn endpoints(&self) -> Endpoints {
        let authorities = self.authorities();
        let of = |service: &str| {
            let replicas = self.replicas.iter().filter(|it| it.service == service);
            replicas.map(|it| channel(&it.port, &authorities)).collect()
        };
        Endpoints {
            identity: of("identity"),
            project: of("project"),
            invitation: of("invitation"),
            audit: of("audit"),
        }
    }

    /// Creates an organization with members.
    pub(crate) async fn create_tenant(&self) -> Tenant {
        let (identity, invitation) =
            (self.client("identity").await, self.client("invitation").await);
        let folder = |it: &Replica| self.folder.path().join(&it.name).join("mail");
        let mailbox = Mailbox::Folders(self.replicas.iter().map(folder).collect());
        let owner = Person::join(&identity, &mailbox, "owner@example.com").await.unwrap();
        let org_id = owner.create_organization("acme").await.unwrap();
        let at_invitation =
            |it: &Person| Person { client: invitation.with_token(&it.token), ..it.clone() };
        let mut members = vec![];
        for number in 0..MEMBERS {
            let email = format!("member{number}@example.com");
            let member = Person::join(&identity, &mailbox, &email).await.unwrap();
            let (by, person) = (at_invitation(&owner), at_invitation(&member));
            add_member(&by, &org_id, &person, "VIEWER").await;
            members.push(member);
        }
        Tenant { org_id, owner, members }
    }

    /// Logs of all processes.
    pub(crate) fn logs(&self) -> String {
        let log = |it: &Replica| {
            let log = fs::read_to_string(log_file(self.folder.path(), &it.name));
            format!("== {}\n{}", it.name, log.unwrap_or_default())
        };
        self.replicas.iter().map(log).collect()
    }

    /// Stops all processes, which must drain.
    pub(crate) fn stop(mut self) {
        for index in 0..self.replicas.len() {
            self.stop_replica(index);
        }
    }
}

fn channel(port: &ReservedPort, authorities: &str) -> Channel {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities));
    let endpoint = Channel::from_shared(url(port)).unwrap().tcp_nodelay(true);
    endpoint.connect_timeout(CONNECT_MAX).tls_config(tls).unwrap().connect_lazy()
}

fn url(port: &ReservedPort) -> String {
    format!("https://localhost:{}", port.number())
}

fn log_file(folder: &Path, name: &str) -> std::path::PathBuf {
    folder.join(format!("{name}.log"))
}
