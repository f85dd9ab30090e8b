//! Everything is killed while people work: what was answered is in the log, once, in order, and nothing else
//! is.

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

use crate::{crash::start_with, ledger::as_person};

/// How often something is killed; `CHAOS_ROUNDS` asks for more.
const ROUNDS: u64 = 7;

/// What was answered: the events that the answers named.
type Answered = Arc<Mutex<Vec<String>>>;

/// Creates teams until told to stop. What gets no answer may have happened.
async fn work(
    channel: Channel,
    ann: Person,
    org_id: String,
    answered: Answered,
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
                answered.lock().unwrap().extend(ids.split(',').map(str::to_owned));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Kills the PostgreSQL of a data directory, as a crash of the machine would.
fn kill_postgres(folder: &Path) {
    let pid = std::fs::read_to_string(folder.join("postgres/postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap().trim().to_owned();
    let killed = std::process::Command::new("kill").args(["-9", &pid]).status().unwrap();
    assert!(killed.success());
}

/// G-01 to G-04, G-11 to G-14: acknowledged events are leaves, no leaf is there twice, every number of every
/// service is there in its order, and the whole log verifies from its first entry to its last.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_answered_is_missing_whatever_is_killed() {
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
    let mailbox = Mailbox::new(vec![folder.path().join("mail")]);
    let ann = Person::join(&client, &mailbox, "ann@example.com").await.unwrap();
    let org_id = ann.create_organization("acme").await.unwrap();
    let channel = Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect_lazy();
    let (answered, stop) = (Answered::default(), Arc::new(AtomicBool::new(false)));
    let workers: Vec<_> = (0..4)
        .map(|_| work(channel.clone(), ann.clone(), org_id.clone(), answered.clone(), stop.clone()))
        .map(tokio::task::spawn)
        .collect();
    for round in 0..rounds {
        // In the middle of the work, after some more answers than in the round before.
        let before = answered.lock().unwrap().len();
        let wanted = before + 8 + usize::try_from(round % 5).unwrap();
        eventually("the answers of a round", async || {
            (answered.lock().unwrap().len() >= wanted).then_some(())
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
                nats.wipe();
                nats.restart();
            }
            4 => {
                nats.kill();
                suite.kill();
                suite = start_with(folder.path(), port, settings()).await.0;
                nats.wipe();
                nats.restart();
            }
            _ => {
                suite.freeze();
                tokio::time::sleep(Duration::from_millis(600)).await;
                suite.thaw();
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let answered: BTreeSet<String> = answered.lock().unwrap().iter().cloned().collect();
    assert!(answered.len() > 50, "{} answers", answered.len());
    still_serving(&channel, folder.path()).await;
    let told = settled(&channel, &ann, &org_id, &answered).await;
    let once: BTreeSet<&String> = told.iter().collect();
    assert_eq!(once.len(), told.len(), "an event is there twice");
    assert!(suite.stop(), "it drains");
    stop_deployments(folder.path());
}

/// Fails with the last words of a suite that did not come back.
async fn still_serving(channel: &Channel, folder: &Path) {
    let mut log = LogServiceClient::new(channel.clone());
    if let Err(status) = log.get_verifier_keys(pb::GetVerifierKeysRequest {}).await {
        let log = std::fs::read_to_string(folder.join("log")).unwrap();
        let last: Vec<_> = log.lines().rev().take(30).collect();
        panic!("{status}; its last words, backwards:\n{}", last.join("\n"));
    }
}

/// The events of the log, once it holds all that was answered; every proof of it verifies.
async fn settled(
    channel: &Channel,
    ann: &Person,
    org_id: &str,
    answered: &BTreeSet<String>,
) -> Vec<String> {
    let mut log = LogServiceClient::new(channel.clone());
    let keys = log.get_verifier_keys(pb::GetVerifierKeysRequest {}).await.unwrap().into_inner();
    let keys = keys.verifier_keys.iter().map(|it| VerifierKey::parse(it).unwrap()).collect();
    let pins = Pins { keys, org_id: Some(org_id.to_owned()) };
    eventually("the log of every answer", async || {
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
        let mut told = vec![];
        // G-11: also now, while the log still catches up, what is given out verifies.
        let report = bundle::verify(&*file, &pins, |_| None, |it| told.push(it.event_id.clone()));
        let report = report.unwrap_or_else(|refused| panic!("{refused}"));
        assert!(report.whole);
        let all = answered.iter().all(|it| told.contains(it));
        all.then_some(told)
    })
    .await
}
