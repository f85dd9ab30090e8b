//! The demo scenario in one process, with JetStream, and in separate processes.

use tenantry::{
    client::Client,
    demo::{Console, Outcome, run_scenario},
};
use testkit::{Nats, Options, Process, Smtp, Suite, eventually};

use crate::support::service_processes::{NAMES, ServiceProcesses};

#[tokio::test(flavor = "multi_thread")]
async fn the_scenario_in_one_process() {
    let suite = Suite::start().await;
    let outcome = run_scenario(&suite.services(), &suite.mailbox, Console::quiet()).await.unwrap();
    assert_entries_complete(&outcome);
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scenario_in_one_process_with_jetstream() {
    let nats = Nats::start();
    let options = Options { nats_url: Some(nats.url()), ..Options::default() };
    let suite = Suite::start_with(options).await;
    let outcome = run_scenario(&suite.services(), &suite.mailbox, Console::quiet()).await.unwrap();
    assert_entries_complete(&outcome);
    suite.finish().await;
}

/// The scenario in four service processes and a runner process.
#[tokio::test(flavor = "multi_thread")]
async fn the_scenario_in_four_processes_with_jetstream() {
    let processes = ServiceProcesses::start().await;
    let runner = processes.start_runner();
    let outcome = run_scenario(&processes.clients, &processes.mailbox, Console::quiet()).await;
    let outcome = outcome.unwrap_or_else(|error| panic!("{error:#}\n{}", processes.logs()));
    assert_entries_complete(&outcome);
    let owner = processes.clients.invitation.with_token(&outcome.owner_token);
    wait_for_notifications(&owner).await;
    assert!(runner.stop(), "the runner does not drain");
    processes.stop().await;
}

/// The program `demo` with the URL of each service and the directories of their mails.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_program_reaches_four_services() {
    let processes = ServiceProcesses::start().await;
    let runner = processes.start_runner();
    let path = |name: &str| processes.folder().join(name).display().to_string();
    let mut arguments = vec![
        format!("--tls-ca={}", path("certs/ca.pem")),
        format!("--mail-dir={},{}", path("identity/mail"), path("invitation/mail")),
        format!("--work-dir={}", path("demo")),
    ];
    arguments.extend(NAMES.iter().map(|name| format!("--{name}-url={}", processes.url(name))));
    let demo = tokio::task::spawn_blocking(move || {
        let arguments = arguments.iter().map(String::as_str);
        Process::run("tenantry", &[&["demo"], &*arguments.collect::<Vec<_>>()].concat())
    });
    let output = demo.await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("All steps succeeded"), "{text}\n{output:?}\n{}", processes.logs());
    assert!(runner.stop(), "the runner drains");
    processes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_mail_is_sent_by_smtp() {
    let smtp = Smtp::start().await;
    let suite =
        Suite::start_with(Options { smtp_url: Some(smtp.url()), ..Options::default() }).await;
    let register = api::identity::RegisterRequest {
        email: "ann@example.com".to_owned(),
        password: testkit::PASSWORD.to_owned(),
        ..Default::default()
    };
    let method = "tenantry.identity.v1.UserService/Register";
    let _: api::identity::RegisterResponse = suite.client.call(method, register).await.unwrap();
    let mail = eventually("a mail", async || smtp.mails().pop()).await;
    assert!(mail.contains("To: ann@example.com"), "wrong recipient: {mail}");
    assert!(mail.contains("tny_ver_"), "the mail has no verification token: {mail}");
    assert!(mail.contains("Message-ID: <"), "the mail has no Message-ID: {mail}");
    suite.finish().await;
}

/// Waits for notifications of the Owner about events of other services (NO-10).
async fn wait_for_notifications(owner: &Client) {
    let has_both = async || {
        let list = serde_json::json!({ "pageSize": 100 });
        let method = "notification.v1.NotificationService/ListNotifications";
        let all = owner.call_json(method, list).await.unwrap().to_string();
        ["member.joined", "deployment.completed"].iter().all(|it| all.contains(it)).then_some(())
    };
    eventually("notifications", has_both).await;
}

/// Checks that each entry has actor, resource, time, origin, and the states before and after (AU-1).
fn assert_entries_complete(outcome: &Outcome) {
    for entry in &outcome.entries {
        let envelope = entry.envelope.as_ref().unwrap();
        let actor = envelope.actor.as_ref().unwrap();
        let resource = envelope.resource.as_ref().unwrap();
        assert!(!actor.id.is_empty(), "no actor id: {envelope:?}");
        assert!(!resource.id.is_empty(), "no resource id: {envelope:?}");
        assert!(envelope.occur_time.is_some(), "no time: {envelope:?}");
        assert!(envelope.event.is_some(), "no event: {envelope:?}");
        let origin = envelope.origin.as_ref().unwrap();
        assert!(!origin.request_id.is_empty(), "no request id: {envelope:?}");
        if actor.kind() == api::event::ActorKind::User {
            assert_eq!(origin.address, "127.0.0.1", "{envelope:?}");
            assert!(!actor.email.is_empty(), "no e-mail address: {envelope:?}");
            assert!(!actor.credential_id.is_empty(), "no credential id: {envelope:?}");
        }
    }
    let changed = outcome.entries.iter().find_map(|it| {
        let event = it.envelope.as_ref()?.event.as_ref()?;
        event.to_msg::<api::identity::MemberRoleChanged>().ok()
    });
    let changed = changed.expect("the scenario changes Bob's role");
    assert_eq!(changed.before.unwrap().role(), api::identity::OrgRole::Developer);
    assert_eq!(changed.after.unwrap().role(), api::identity::OrgRole::Viewer);
}
