//! Replacement of the certificates of running services, and the warning before their end.

use std::{
    io::Read,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use serde_json::json;
use tenantry::client::Client;
use testkit::{Database, Person, Process, eventually};
use time::{Duration, OffsetDateTime};

use super::startup::data_dir;
use crate::support::service_processes::ServiceProcesses;

/// New certificates of a new authority apply to new connections; open connections stay open.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_without_a_restart() {
    let processes = ServiceProcesses::start().await;
    let clients = &processes.clients;
    let owner = Person::join(&clients.identity, &processes.mailbox, "o@example.com").await.unwrap();
    let org = owner.create_organization("acme").await.unwrap();
    let list = json!({ "orgId": org });
    let method = "project.v1.ProjectService/ListProjects";
    let old = clients.project.with_token(&owner.token);
    old.call_json(method, list.clone()).await.unwrap();

    let folder = processes.folder().join("certs");
    let created = Process::run("tenantry", &["certs", "--out", &folder.to_string_lossy()]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let authority = std::fs::read_to_string(folder.join("ca.pem")).unwrap();
    let url = processes.url("project");
    let connect = async || Client::connect(url, Some(&authority)).await.ok();
    let new = eventually("the new certificate", connect).await.with_token(&owner.token);
    // Project connects to identity with its new certificate as soon as identity has its own.
    eventually("calls between services", async || {
        new.call_json(method, list.clone()).await.ok().map(drop)
    })
    .await;
    old.call_json(method, list).await.unwrap();
    processes.stop().await;
}

/// Writes an authority, and a certificate of the identity service that expires before it.
pub(super) fn write_certificate(folder: &Path, validity: Duration) {
    let mut parameters = CertificateParams::new(vec![]).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
    let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let name = SanType::URI("spiffe://tenantry/svc/identity".try_into().unwrap());
    parameters.subject_alt_names.push(name);
    parameters.not_after = OffsetDateTime::now_utc() + validity;
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.signed_by(&key, &authority).unwrap();
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    std::fs::write(folder.join("tls.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
}

/// A collector of metrics that only receives: it records the bytes of requests and answers none. A connection
/// on which it has received `last` is closed.
fn start_collector(last: &'static [u8]) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let received = Arc::new(Mutex::new(vec![]));
    let recorded = received.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                let mut recorded = recorded.lock().unwrap();
                recorded.extend_from_slice(&buffer[..length]);
                if contains(&recorded, last) {
                    break;
                }
            }
        }
    });
    (address, received)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|it| it == part)
}

/// A certificate that expires within 30 days is reported in the log and as a metric.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_certificate_is_reported_before() {
    const METRIC: &[u8] = b"tenantry.tls.certificate_remaining";
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    write_certificate(folder.path(), Duration::days(10) + Duration::hours(1));
    let (collector, received) = start_collector(METRIC);
    let log = folder.path().join("log");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let arguments = [
        data,
        "--listen=127.0.0.1:0".to_owned(),
        format!("--database-url={}", database.url()),
        format!("--tls-cert={}", path("tls.pem")),
        format!("--tls-key={}", path("tls.key")),
        format!("--tls-ca={}", path("ca.pem")),
        format!("--otlp-endpoint=http://{collector}"),
        "--traces-exporter=none".to_owned(),
        "--allow-weak-isolation=true".to_owned(),
    ];
    let process = Process::start("tenantry", &arguments, &log);
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the start", async || text().contains("Tenantry listens").then_some(())).await;
    let text = text();
    assert!(text.contains("the TLS certificate expires in less than 30 days"), "{text}");
    assert!(text.contains("tls.pem") && text.contains("days=10"), "{text}");
    // The last metrics are exported at the end.
    process.stop();
    assert!(contains(&received.lock().unwrap(), METRIC), "the metric is exported");
    testkit::stop_deployments(&folder.path().join("runner"));
    database.drop().await;
}
