//! `deploy/observability`: each alert fires while its cause lasts and clears after it, with a real Prometheus
//! and a real Alertmanager; the queries of the dashboards return data.

mod dashboards;
mod deliveries;
mod failures;
mod installation;
mod outages;
mod rules;

use self::{
    failures::{CheckHung, ConsumerPaused, FanoutFailing, LogDamaged, ReactionFailing},
    installation::{Cause, Installation},
    outages::{
        CertificateExpiring, MailServerStopped, NatsStopped, RunnerAbsent, ServiceStopped,
        TableLocked, TableMissing,
    },
};

/// Alerts of the causes in the test below.
const FIRED: [&[&str]; 12] = [
    MailServerStopped::ALERTS,
    RunnerAbsent::ALERTS,
    ReactionFailing::ALERTS,
    FanoutFailing::ALERTS,
    ConsumerPaused::ALERTS,
    TableLocked::ALERTS,
    TableMissing::ALERTS,
    LogDamaged::ALERTS,
    CheckHung::ALERTS,
    CertificateExpiring::ALERTS,
    NatsStopped::ALERTS,
    ServiceStopped::ALERTS,
];

/// The causes that do not disturb each other exist at the same time, because each measurement of the queues
/// takes ten seconds.
#[tokio::test(flavor = "multi_thread")]
async fn every_alert_fires_with_its_cause_and_clears_without_it() {
    let mut installation = Installation::start().await;
    let consumer = ConsumerPaused::begin(&mut installation).await;
    let reaction = ReactionFailing::begin(&mut installation).await;
    let fanout = FanoutFailing::begin(&mut installation).await;
    let runner = RunnerAbsent::begin(&mut installation).await;
    let mail = MailServerStopped::begin(&mut installation).await;
    let log = LogDamaged::begin(&mut installation).await;
    let check = CheckHung::begin(&mut installation).await;
    let certificate = CertificateExpiring::begin(&mut installation).await;
    let lock = TableLocked::begin(&mut installation).await;
    let table = TableMissing::begin(&mut installation).await;
    for alerts in &FIRED[..10] {
        installation.deliveries.wait_for_firing(alerts).await;
    }
    dashboards::require_data(&installation.prometheus).await;

    lock.end(&mut installation).await;
    table.end(&mut installation).await;
    consumer.end(&mut installation).await;
    reaction.end(&mut installation).await;
    fanout.end(&mut installation).await;
    runner.end(&mut installation).await;
    mail.end(&mut installation).await;
    certificate.end(&mut installation).await;
    log.end(&mut installation).await;
    check.end(&mut installation).await;
    installation.wait_for_quiet().await;

    let nats = NatsStopped::begin(&mut installation).await;
    let service = ServiceStopped::begin(&mut installation).await;
    for alerts in &FIRED[10..] {
        installation.deliveries.wait_for_firing(alerts).await;
    }
    nats.end(&mut installation).await;
    service.end(&mut installation).await;
    installation.wait_for_quiet().await;
    installation.stop();
}

#[test]
fn every_alert_has_a_cause() {
    let mut names = rules::names();
    let mut fired = FIRED.concat();
    names.sort();
    fired.sort_unstable();
    assert_eq!(names, fired, "alerts of alerts.yaml, and those that the test above fires");
}
