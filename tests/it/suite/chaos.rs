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
use testkit::{Nats, Person, eventually};
use tonic::transport::Channel;
use verifier::{Pins, bundle, note::VerifierKey};

use crate::support::{audit_client::as_person, suite_process::SuiteProcess};

/// Number of faults; the environment variable `CHAOS_ROUNDS` overrides it.
const ROUNDS: usize = 7;

/// A fault under load.
#[derive(Clone, Copy)]
enum Fault {
    /// The suite is killed and starts again.
    KillSuite,
    /// NATS is killed and starts again with its data.
    RestartNats,
    /// NATS loses its data.
    LoseNatsData,
    /// The suite and its PostgreSQL are killed and start again.
    KillSuiteAndPostgres,
    /// NATS is killed; the suite is killed and starts without NATS, which then loses its data.
    KillBothAndLoseNatsData,
    /// The suite does not run for 600 ms (SIGSTOP).
    SuspendSuite,
}

/// The faults in their order; after the last one they are repeated.
const FAULTS: [Fault; 6] = [
    Fault::KillSuite,
    Fault::RestartNats,
    Fault::LoseNatsData,
    Fault::KillSuiteAndPostgres,
    Fault::KillBothAndLoseNatsData,
    Fault::SuspendSuite,
];

impl Fault {
    async fn inject(self, suite: &mut SuiteProcess, nats: &mut Nats) {
        match self {
            Self::KillSuite => {
                suite.kill();
                suite.start_again().await;
            }
            Self::KillSuiteAndPostgres => {
                suite.kill();
                kill_postgres(suite.data_dir());
                suite.start_again().await;
            }
            Self::RestartNats => {
                nats.kill();
                nats.restart();
            }
            Self::LoseNatsData => {
                nats.kill();
                tokio::time::sleep(Duration::from_millis(700)).await;
                nats.delete_data();
                nats.restart();
            }
            Self::KillBothAndLoseNatsData => {
                nats.kill();
                suite.kill();
                suite.start_again().await;
                nats.delete_data();
                nats.restart();
            }
            Self::SuspendSuite => {
                suite.process().suspend();
                tokio::time::sleep(Duration::from_millis(600)).await;
                suite.process().resume();
            }
        }
    }
}

/// Event ids in the responses of successful calls.
type Acknowledged = Arc<Mutex<Vec<String>>>;

/// Creates teams until `stop` is set, and collects the event ids of successful calls. Failed calls are not
/// repeated, because they may have succeeded without a response.
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
    let mut nats = Nats::start();
    let flags = vec![format!("--nats-url={}", nats.url()), "--nats-patience-s=2".to_owned()];
    let mut suite = SuiteProcess::start_with(flags).await;
    let ann = suite.person("ann@example.com").await;
    let org_id = ann.create_organization("acme").await.unwrap();
    let channel = Channel::from_shared(suite.url()).unwrap().connect_lazy();
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
    for (round, fault) in FAULTS.into_iter().cycle().take(rounds).enumerate() {
        // In the middle of the work, after a different number of answers in each round.
        let before = acknowledged.lock().unwrap().len();
        let wanted = before + 8 + round % 5;
        eventually("the answers of a round", async || {
            (acknowledged.lock().unwrap().len() >= wanted).then_some(())
        })
        .await;
        fault.inject(&mut suite, &mut nats).await;
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let acknowledged: BTreeSet<String> = acknowledged.lock().unwrap().iter().cloned().collect();
    assert!(acknowledged.len() > 50, "only {} calls were acknowledged", acknowledged.len());
    assert_serving(&channel, &suite).await;
    let logged = wait_for_acknowledged(&channel, &ann, &org_id, &acknowledged).await;
    let distinct: BTreeSet<&String> = logged.iter().collect();
    assert_eq!(distinct.len(), logged.len(), "the log has an event twice");
    suite.stop();
}

/// Fails if the suite does not answer, with the end of its log.
async fn assert_serving(channel: &Channel, suite: &SuiteProcess) {
    let mut log = LogServiceClient::new(channel.clone());
    if let Err(status) = log.get_verifier_keys(pb::GetVerifierKeysRequest {}).await {
        let log = suite.log();
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
    let pins = Pins { keys, org_id: Some(org_id.to_owned()), ..Pins::default() };
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
        assert!(report.complete, "the export does not contain all entries of its checkpoint");
        let all = acknowledged.iter().all(|it| logged.contains(it));
        all.then_some(logged)
    })
    .await
}
