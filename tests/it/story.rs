//! The story of the suite, on everything that carries it.

use std::path::Path;

use tenantry::{
    client::Client,
    demo::{Mailbox, Played, Services, Voice, play},
};
use testkit::{Database, Nats, Options, Process, Smtp, Suite, eventually, stop_deployments};

#[tokio::test(flavor = "multi_thread")]
async fn the_story_in_one_process() {
    let suite = Suite::start().await;
    let played = play(&suite.services(), &suite.mailbox, Voice::silent()).await.unwrap();
    explains_itself(&played);
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_in_one_process_with_jetstream() {
    let nats = Nats::start();
    let options = Options { nats_url: Some(nats.url()), ..Options::default() };
    let suite = Suite::start_with(options).await;
    let played = play(&suite.services(), &suite.mailbox, Voice::silent()).await.unwrap();
    explains_itself(&played);
    suite.finish().await;
}

/// Four services and a runner, each a process with a certificate; one PostgreSQL, which each service reaches
/// as its own role; a real nats-server with the permissions of `deploy/nats.conf`.
#[tokio::test(flavor = "multi_thread")]
async fn the_story_in_four_processes_with_jetstream() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (nats, database) = (Nats::start_with_permissions(), Database::new().await);
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let certificates = folder.path().join("certs");
    let made = Process::run("tenantry", &["certs", "--out", &certificates.to_string_lossy()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ports: Vec<u16> = (0..4).map(|_| free_port()).collect();
    let names = ["identity", "project", "invitation", "audit"];
    let url = |i: usize| format!("https://localhost:{}", ports[i]);

    let common = |name: &str| {
        let file = |it: String| certificates.join(it).to_string_lossy().into_owned();
        let mut arguments = vec![
            format!("--data-dir={}", folder.path().join(name).display()),
            format!("--tls-cert={}", file(format!("{name}.pem"))),
            format!("--tls-key={}", file(format!("{name}.key"))),
            format!("--tls-ca={}", file("ca.pem".to_owned())),
        ];
        let peers = [("identity", 0), ("project", 1), ("invitation", 2), ("audit", 3)];
        arguments.extend(peers.map(|(peer, i)| format!("--{peer}-url={}", url(i))));
        arguments
    };
    let start = |name: &str, more: Vec<String>| {
        let log = folder.path().join(format!("{name}.log"));
        let program = if name == "runner" { "tenantry" } else { name };
        let verb = (name == "runner").then(|| "runner".to_owned());
        let arguments: Vec<_> = verb.into_iter().chain(common(name)).chain(more).collect();
        Process::start(program, &arguments, &log)
    };
    let services: Vec<_> = (0..4)
        .map(|i| {
            let more = vec![
                format!("--listen=127.0.0.1:{}", ports[i]),
                format!("--database-url={}", database.url_as(&format!("tenantry_{}", names[i]))),
                format!("--nats-url={}", nats.url_of(names[i])),
                "--local-repositories=true".to_owned(),
            ];
            start(names[i], more)
        })
        .collect();
    let runner = start("runner", vec![]);

    let authority = std::fs::read_to_string(certificates.join("ca.pem")).unwrap();
    let client = async |i: usize| {
        let (url, authority) = (url(i), authority.clone());
        eventually(names[i], async || Client::connect(&url, Some(&authority)).await.ok()).await
    };
    let services_at = Services {
        identity: client(0).await,
        project: client(1).await,
        invitation: client(2).await,
        audit: client(3).await,
    };
    let mail = |name: &str| folder.path().join(name).join("mail");
    let mailbox = Mailbox::new(vec![mail("identity"), mail("invitation")]);
    let played = play(&services_at, &mailbox, Voice::silent()).await;
    let played = played.unwrap_or_else(|error| panic!("{error:#}\n{}", logs(folder.path())));
    explains_itself(&played);
    is_told(&services_at.invitation.with_token(&played.owner_token)).await;

    assert!(runner.stop(), "the runner drains");
    for (service, name) in services.into_iter().zip(names) {
        assert!(service.stop(), "{name} drains\n{}", logs(folder.path()));
    }
    stop_deployments(&folder.path().join("runner"));
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_leaves_by_smtp() {
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
    assert!(mail.contains("To: ann@example.com") && mail.contains("tny_ver_"), "{mail}");
    assert!(mail.contains("Message-ID: <"), "{mail}");
    suite.finish().await;
}

/// The Owner is told of what others did in other services (NO-10 across processes).
async fn is_told(owner: &Client) {
    let told = async || {
        let list = serde_json::json!({ "pageSize": 100 });
        let method = "invitation.v1.NotificationService/ListNotifications";
        let all = owner.ask(method, list).await.unwrap().to_string();
        ["member.joined", "deploy.completed"].iter().all(|it| all.contains(it)).then_some(())
    };
    eventually("notices", told).await;
}

/// Who, what, on what, when, from where, before and after (AU-1, 4.2).
fn explains_itself(played: &Played) {
    for entry in &played.entries {
        let envelope = entry.envelope.as_ref().unwrap();
        let (actor, resource) =
            (envelope.actor.as_ref().unwrap(), envelope.resource.as_ref().unwrap());
        assert!(!actor.id.is_empty() && !resource.id.is_empty(), "{envelope:?}");
        assert!(envelope.occur_time.is_some() && envelope.event.is_some(), "{envelope:?}");
        let origin = envelope.origin.as_ref().unwrap();
        assert!(!origin.request_id.is_empty(), "{envelope:?}");
        if actor.kind() == api::event::ActorKind::User {
            assert_eq!(origin.address, "127.0.0.1", "{envelope:?}");
            assert!(!actor.email.is_empty() && !actor.credential_id.is_empty(), "{envelope:?}");
        }
    }
    let changed = played.entries.iter().find_map(|it| {
        let event = it.envelope.as_ref()?.event.as_ref()?;
        event.to_msg::<api::identity::MemberRoleChanged>().ok()
    });
    let changed = changed.expect("the change of Bob's role");
    assert_eq!(changed.before.unwrap().role(), api::identity::OrgRole::Developer);
    assert_eq!(changed.after.unwrap().role(), api::identity::OrgRole::Viewer);
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn logs(folder: &Path) -> String {
    let names = ["identity", "project", "invitation", "audit", "runner"];
    let log = |name: &&str| {
        std::fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default()
    };
    names.iter().map(|it| format!("== {it}\n{}", log(it))).collect()
}
