//! Kills of the suite, PostgreSQL and NATS under load: every acknowledged event is in the log once and in
//! order.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::{
    audit::{
        self as pb, audit_service_client::AuditServiceClient, log_service_client::LogServiceClient,
    },
    identity::{CreateTeamRequest, team_service_client::TeamServiceClient},
};
use tenantry::demo::Mailbox;
use testkit::{Nats, Person, eventually, stop_deployments};
use tonic::transport::Channel;
use verifier::{Pins, bundle, note::VerifierKey};

use crate::{suite::crash::start_with, support::audit_client::as_person};

/// Number of kills; `CHAOS_ROUNDS` overrides it.
const ROUNDS: u64 = 7;

/// Event ids in the responses of successful calls.
type Acknowledged = Arc<Mutex<Vec<String>>>;

/// Creates teams until `stop` is set. A call without a response may have succeeded.
async fn create_teams(
    channel: Channel,
    ann: Person,
    org_id: String,
    acknowledged: Acknowledged,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Relaxed) {
        let name = chassis::id::new().to_string();
        let create = CreateTeamRequest { org_id: org_id.clone(), name, ..Default::default() };
        let mut request = as_person(&ann, create);
        request.set_timeout(Duration::from_secs(2));
        let mut teams = TeamServiceClient::new(channel.clone());
        match teams.create_team(request).await {
            Ok(answer) => {
                let ids = answer.metadata().get("tenantry-event-ids").unwrap().to_str().unwrap();
                acknowledged.lock().unwrap().extend(ids.split(',').map(str::to_owned));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Kills the PostgreSQL server of a data directory with `SIGKILL`.
fn kill_postgres(folder: &Path) {
    let pid = std::fs::read_to_string(folder.join("postgres/postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap().trim().to_owned();
    let killed = std::process::Command::new("kill").args(["-9", &pid]).status().unwrap();
    assert!(killed.success());
}

/// G-01 to G-04, G-11 to G-14: acknowledged events are in the log once, sequences of each source have no
/// gaps, and the whole log verifies.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_events_survive_kills() {
    let rounds =
        std::env::var("CHAOS_ROUNDS").ok().and_then(|it| it.parse().ok()).unwrap_or(ROUNDS);
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut nats = Nats::start();
    let url = nats.url();
    let settings = || vec![format!("--nats-url={url}"), "--nats-patience-s=2".to_owned()];
    let (mut suite, client) = start_with(folder.path(), port, settings()).await;
    let mailbox = Mailbox::Folders(vec![folder.path().join("mail")]);
    let ann = Person::join(&client, &mailbox, "ann@example.com").await.unwrap();
    let org_id = ann.create_organization("acme").await.unwrap();
    let channel = Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect_lazy();
    let acknowledged = Acknowledged::default();
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            create_teams(
                channel.clone(),
                ann.clone(),
                org_id.clone(),
                acknowledged.clone(),
                stop.clone(),
            )
        })
        .map(tokio::task::spawn)
        .collect();
    for round in 0..rounds {
        // In the middle of the work, after some more answers than in the round before.
        let before = acknowledged.lock().unwrap().len();
        let wanted = before + 8 + usize::try_from(round % 5).unwrap();
        eventually("the answers of a round", async || {
            (acknowledged.lock().unwrap().len() >= wanted).then_some(())
        })
        .await;
        match round % 6 {
            0 | 3 => {
                suite.kill();
                if round % 6 == 3 {
                    kill_postgres(folder.path());
                }
                suite = start_with(folder.path(), port, settings()).await.0;
            }
            1 => {
                nats.kill();
                nats.restart();
            }
            2 => {
                nats.kill();
                tokio::time::sleep(Duration::from_millis(700)).await;
                nats.delete_data();
                nats.restart();
            }
            4 => {
                nats.kill();
                suite.kill();
                suite = start_with(folder.path(), port, settings()).await.0;
                nats.delete_data();
                nats.restart();
            }
            _ => {
                suite.suspend();
                tokio::time::sleep(Duration::from_millis(600)).await;
                suite.resume();
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let acknowledged: BTreeSet<String> = acknowledged.lock().unwrap().iter().cloned().collect();
    assert!(acknowledged.len() > 50, "{} answers", acknowledged.len());
    assert_serving(&channel, folder.path()).await;
    let logged = wait_for_acknowledged(&channel, &ann, &org_id, &acknowledged).await;
    let distinct: BTreeSet<&String> = logged.iter().collect();
    assert_eq!(distinct.len(), logged.len(), "duplicate entries");
    assert!(suite.stop(), "the suite drains");
    stop_deployments(folder.path());
}

/// Fails with the end of the log of a suite that does not answer.
async fn assert_serving(channel: &Channel, folder: &Path) {
    let mut log = LogServiceClient::new(channel.clone());
    if let Err(status) = log.get_verifier_keys(pb::GetVerifierKeysRequest {}).await {
        let log = std::fs::read_to_string(folder.join("log")).unwrap();
        let last: Vec<_> = log.lines().rev().take(30).collect();
        panic!("{status}; its log, newest lines first:\n{}", last.join("\n"));
    }
}

/// Waits until all acknowledged events are in the log, verifies it, and returns its event ids.
async fn wait_for_acknowledged(
    channel: &Channel,
    ann: &Person,
    org_id: &str,
    acknowledged: &BTreeSet<String>,
) -> Vec<String> {
    let mut log = LogServiceClient::new(channel.clone());
    let keys = log.get_verifier_keys(pb::GetVerifierKeysRequest {}).await.unwrap().into_inner();
    let keys = keys.verifier_keys.iter().map(|it| VerifierKey::parse(it).unwrap()).collect();
    let pins = Pins { keys, org_id: Some(org_id.to_owned()) };
    eventually("the log of every acknowledged event", async || {
        let request = pb::ExportEntriesRequest {
            org_id: org_id.to_owned(),
            format: pb::ExportFormat::Bundle.into(),
            ..Default::default()
        };
        let mut client = AuditServiceClient::new(channel.clone());
        let mut stream = client.export_entries(as_person(ann, request)).await.ok()?.into_inner();
        let mut file = vec![];
        while let Some(chunk) = stream.message().await.ok()? {
            file.extend(chunk.chunk);
        }
        let mut logged = vec![];
        // G-11: an export also verifies while events are missing.
        let report = bundle::verify(&*file, &pins, |_| None, |it| logged.push(it.event_id.clone()));
        let report = report.unwrap_or_else(|refused| panic!("{refused}"));
        assert!(report.complete);
        let all = acknowledged.iter().all(|it| logged.contains(it));
        all.then_some(logged)
    })
    .await
}
