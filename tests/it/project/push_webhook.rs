//! Push webhooks of git servers: signed pushes deploy the environments that follow a branch.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tenantry::demo::Services;
use testkit::{Person, Suite, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    fake_runner::FakeRunner,
    hosting::{Hosting, PROJECTS, TASKS},
    service_processes::ServiceProcesses,
    world::text,
};

/// Sends a POST like a git server, as JSON unless a header says otherwise; returns the status and the body.
pub(crate) async fn post(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let has_type = headers.iter().any(|it| it.0 == "content-type");
    let json = if has_type { "" } else { "content-type: application/json\r\n" };
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{json}\
         Content-Length: {}\r\n{more}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.trim().to_owned())
}

/// HMAC-SHA256 of a body in hexadecimal digits.
pub(crate) fn signature(secret: &str, body: &str) -> String {
    let mac = chassis::key::hmac_sha256(secret.as_bytes(), body.as_bytes());
    mac.iter().map(|it| format!("{it:02x}")).collect()
}

/// Body of a push event.
pub(crate) fn push_body(branch: &str, commit: &str) -> String {
    json!({ "ref": format!("refs/heads/{branch}"), "after": commit, "user_username": "ann" })
        .to_string()
}

/// Rotates the push secret of a project; returns the path of its webhook and the secret.
pub(crate) async fn rotate_hook(hosting: &Hosting) -> (String, String) {
    let method = format!("{PROJECTS}/RotatePushSecret");
    let rotated = hosting.owner().call_ok(&method, hosting.world.project_request(json!({}))).await;
    let path = text(&rotated["url"]);
    let path = path[path.find("/hooks/").unwrap()..].to_owned();
    (path, text(&rotated["secret"]))
}

/// Sends a signed push in the format of Gitea; returns the status and the body.
pub(crate) async fn push(suite: &Suite, hook: &(String, String), branch: &str) -> (u16, String) {
    let (path, secret) = hook;
    let body = push_body(branch, &"a".repeat(40));
    let signed = signature(secret, &body);
    let headers = [("x-gitea-event", "push"), ("x-gitea-signature", signed.as_str())];
    post(suite.address, path, &headers, &body).await
}

/// The URL that a project shows for its webhook is the address of the project service, which receives pushes,
/// not that of the pages in mails.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_webhook_reaches_the_project_service_of_four_services() {
    let processes = ServiceProcesses::start().await;
    let Services { identity, project, .. } = &processes.clients;
    let owner = Person::join(identity, &processes.mailbox, "owner@example.com").await.unwrap();
    let org = owner.create_organization("acme").await.unwrap();
    let owner = project.with_token(&owner.token);
    let repository = "https://git.example.com/acme/shop.git";
    let create = json!({ "orgId": org, "name": "Shop", "repositoryUrl": repository });
    let created = owner.call_json(&format!("{PROJECTS}/CreateProject"), create).await.unwrap();
    let rotate = json!({ "orgId": org, "projectId": created["project"]["id"] });
    let hook = owner.call_json(&format!("{PROJECTS}/RotatePushSecret"), rotate).await.unwrap();

    let body = push_body("main", &"a".repeat(40));
    let authority = reqwest::Certificate::from_pem(processes.authority().as_bytes()).unwrap();
    let git_server = reqwest::Client::builder().tls_certs_only([authority]).build().unwrap();
    let delivery = git_server
        .post(text(&hook["url"]))
        .header("content-type", "application/json")
        .header("x-gitea-event", "push")
        .header("x-gitea-signature", signature(&text(&hook["secret"]), &body))
        .body(body);
    let answer = delivery.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.unwrap();
    assert_eq!(text.trim(), "no environment of this branch has auto_deploy");
    processes.stop().await;
}

/// PE-46: pushes in the formats of GitHub, GitLab and Gitea deploy the pushed commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_deploys_its_commit() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let follows = hosting.create_environment(json!({ "name": "main", "autoDeploy": true })).await;
    let manual = hosting.create_environment(json!({ "name": "other" })).await;
    let (path, secret) = rotate_hook(&hosting).await;
    for (number, format) in ["github", "gitea", "gitlab"].into_iter().enumerate() {
        let commit = hosting.repository.commit(format);
        let body = push_body("main", &commit);
        let signed = signature(&secret, &body);
        let headers: Vec<(&str, String)> = match format {
            "github" => vec![
                ("x-github-event", "push".to_owned()),
                ("x-hub-signature-256", format!("sha256={signed}")),
            ],
            "gitea" => vec![("x-gitea-event", "push".to_owned()), ("x-gitea-signature", signed)],
            _ => {
                vec![("x-gitlab-event", "Push Hook".to_owned()), ("x-gitlab-token", secret.clone())]
            }
        };
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = post(suite.address, &path, &headers, &body).await;
        assert_eq!(answer, (202, "1 deployed, 0 waiting".to_owned()));
        let page = async || hosting.page(&follows, "/").await.starts_with(format).then_some(());
        eventually("the page", page).await;
        eventually("the end of the deployment", async || {
            (hosting.state(&follows).await == "RUNNING").then_some(())
        })
        .await;
        let list = hosting
            .owner()
            .call_ok(&format!("{TASKS}/ListTasks"), hosting.request(&follows, json!({})))
            .await;
        let tasks = list["tasks"].as_array().unwrap();
        assert_eq!(tasks.len(), number + 1);
        assert_eq!(
            (&tasks[0]["trigger"], &tasks[0]["commit"]),
            (&json!("TASK_TRIGGER_PUSH"), &json!(commit))
        );
        assert_eq!(tasks[0]["commitSubject"], "Change the page");
    }
    assert_eq!(hosting.state(&manual).await, "PENDING");
    crate::support::sealed_values::require_sealed_values(&suite, &["project.project.push_secret"])
        .await;
    suite.finish().await;
}

/// PE-46: unsigned pushes are rejected; other events and pushes to other branches are accepted and ignored.
#[tokio::test(flavor = "multi_thread")]
async fn only_signed_pushes_to_followed_branches_deploy() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    hosting.create_environment(json!({ "name": "main", "autoDeploy": true })).await;
    let (path, old) = rotate_hook(&hosting).await;
    let (_, secret) = rotate_hook(&hosting).await;
    let body = push_body("main", &"a".repeat(40));
    let send = async |path: &str, event: &str, secret: &str, body: &str| {
        let signed = format!("sha256={}", signature(secret, body));
        let headers = [("x-github-event", event), ("x-hub-signature-256", signed.as_str())];
        post(suite.address, path, &headers, body).await
    };
    assert_eq!(send(&path, "push", &old, &body).await.0, 401, "the old secret is revoked");
    assert_eq!(send(&path, "push", "guessed", &body).await.0, 401);
    let unknown = format!("/hooks/push/{}", chassis::id::new());
    assert_eq!(send(&unknown, "push", &secret, &body).await.0, 401);
    assert_eq!(send("/hooks/push/x", "push", &secret, &body).await.0, 401);
    let changed = signature(&secret, &body);
    let changed = [("x-github-event", "push"), ("x-hub-signature-256", changed.as_str())];
    assert_eq!(post(suite.address, &path, &changed, &body.replace("main", "evil")).await.0, 401);
    for (event, body) in [
        ("ping", "{}".to_owned()),
        ("push", push_body("feature", &"a".repeat(40))),
        ("push", push_body("main", &"0".repeat(40))),
        ("push", "no json".to_owned()),
    ] {
        assert_eq!(send(&path, event, &secret, &body).await.0, 200, "{event} {body}");
    }
    assert_eq!(suite.count("select count(*) from project.task").await, 0);
    suite.finish().await;
}

/// PE-46: pushes to a busy environment wait; only the last of them is deployed.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_waiting_pushes_the_last_is_deployed() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let draft = json!({ "name": "main", "autoDeploy": true, "serverId": runner.server });
    let id = hosting.create_environment(draft).await;
    let (path, secret) = rotate_hook(hosting).await;
    let mut answers = vec![];
    for number in 1..6 {
        let body = push_body("main", &number.to_string().repeat(40));
        let signed = signature(&secret, &body);
        let headers = [("x-gitea-event", "push"), ("x-gitea-signature", signed.as_str())];
        answers.push(post(suite.address, &path, &headers, &body).await.1);
    }
    assert_eq!(answers[0], "1 deployed, 0 waiting");
    assert!(answers[1..].iter().all(|it| it == "0 deployed, 1 waiting"), "{answers:?}");
    let tasks = "select count(*) from project.task";
    assert_eq!(suite.count(tasks).await, 1);
    let result = json!({ "commit": "1111111", "url": "http://127.0.0.1:1" });
    let first = runner.lease_task().await;
    runner.finish_task(&first, result.clone()).await.unwrap();
    assert_eq!(hosting.state(&id).await, "DEPLOYING", "the waiting push is deployed");
    let second = runner.lease_task().await;
    assert_ne!(second["taskId"], first["taskId"]);
    runner.finish_task(&second, result).await.unwrap();
    assert_eq!((runner.lease_task().await, suite.count(tasks).await), (Value::Null, 2));
    suite.finish().await;
}

/// PE-46: the default form encoding of GitHub, with the signature of the raw body, and bodies of up to 25 MB.
#[tokio::test(flavor = "multi_thread")]
async fn forms_and_large_bodies_are_read() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let draft = json!({ "name": "main", "autoDeploy": true, "serverId": runner.server });
    hosting.create_environment(draft).await;
    let (path, secret) = rotate_hook(hosting).await;
    let send = async |content_type: &str, secret: &str, body: &str| {
        let signed = format!("sha256={}", signature(secret, body));
        let headers = [("x-github-event", "push"), ("x-hub-signature-256", signed.as_str())];
        let headers = [&headers[..], &[("content-type", content_type)]].concat();
        post(suite.address, &path, &headers, body).await
    };
    let encoded = |json: &str| json.bytes().map(|it| format!("%{it:02X}")).collect::<String>();
    let form = format!("payload={}", encoded(&push_body("main", &"1".repeat(40))));
    let form_type = "application/x-www-form-urlencoded";
    assert_eq!(send(form_type, "guessed", &form).await.0, 401);
    assert_eq!(send(form_type, &secret, &form).await, (202, "1 deployed, 0 waiting".to_owned()));
    assert_eq!(runner.lease_task().await["commit"], "1".repeat(40));

    let commits = |bytes: usize| {
        let push = push_body("main", &"2".repeat(40));
        let commits = format!(r#","commits":["{}"]}}"#, "x".repeat(bytes));
        push.trim_end_matches('}').to_owned() + &commits
    };
    let large = commits(24 << 20);
    assert_eq!(send("application/json", &secret, &large).await.1, "0 deployed, 1 waiting");
    let large_form = format!("payload={}", encoded(&commits(2 << 20)));
    assert_eq!(send(form_type, &secret, &large_form).await.1, "0 deployed, 1 waiting");
    let (status, text) = send("application/json", &secret, &commits(25 << 20)).await;
    assert!(status == 413 && text.contains("larger than 26214400 bytes"), "{status} {text}");
    let (status, text) = send("text/plain", &secret, &form).await;
    assert!(status == 415 && text.contains("application/json"), "{status} {text}");
    suite.finish().await;
}

/// PE-46: a push to a STOPPED environment starts nothing; its commit is deployed after the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_environment_is_deployed_at_its_next_start() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let draft = json!({ "name": "main", "autoDeploy": true, "serverId": runner.server });
    let id = hosting.create_environment(draft).await;
    let hook = rotate_hook(hosting).await;
    let finish = async |lease: &Value| {
        let result = json!({ "commit": "a".repeat(40), "url": "http://127.0.0.1:1" });
        runner.finish_task(lease, result).await.unwrap();
    };
    assert_eq!(push(&suite, &hook, "main").await.1, "1 deployed, 0 waiting");
    let deployment = runner.lease_task().await;
    assert_eq!(deployment["commit"], "a".repeat(40));
    assert_eq!(deployment["commitWait"], "30s");
    finish(&deployment).await;
    hosting.start_task("Stop", &id, json!({})).await;
    assert_eq!(push(&suite, &hook, "main").await.1, "0 deployed, 1 waiting", "during the stop");
    finish(&runner.lease_task().await).await;
    assert_eq!(push(&suite, &hook, "main").await.1, "0 deployed, 1 waiting");
    assert_eq!(hosting.state(&id).await, "STOPPED");
    assert_eq!(runner.lease_task().await, Value::Null);
    hosting.start_task("Start", &id, json!({})).await;
    let start = runner.lease_task().await;
    assert_eq!(start["kind"], "TASK_KIND_START");
    finish(&start).await;
    let deployment = runner.lease_task().await;
    assert_eq!(
        (&deployment["kind"], &deployment["commit"]),
        (&json!("TASK_KIND_DEPLOY"), &json!("a".repeat(40)))
    );
    finish(&deployment).await;
    assert_eq!(hosting.state(&id).await, "RUNNING");
    suite.finish().await;
}

/// PE-44: the commit of a promotion, and of a rollback to it, is fetched from the branch of its source.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_commit_is_fetched_from_the_branch_of_its_source() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let environment = async |name: &str, kind: &str| {
        let draft = json!({ "name": name, "branch": name, "serverId": runner.server,
            "kind": format!("ENVIRONMENT_KIND_{kind}") });
        hosting.create_environment(draft).await
    };
    let staging = environment("next", "STAGING").await;
    let production = environment("main", "PRODUCTION").await;
    let run = async |verb: &str, id: &str, commit: &str| {
        let task = hosting.start_task(verb, id, json!({})).await;
        let lease = runner.lease_task().await;
        let result = json!({ "commit": commit, "url": "http://127.0.0.1:1" });
        runner.finish_task(&lease, result).await.unwrap();
        (task, text(&lease["branch"]))
    };
    assert_eq!(run("Deploy", &staging, "1111").await.1, "next");
    let (promotion, branch) = run("Promote", &staging, "1111").await;
    assert_eq!(branch, "next");
    assert_eq!(run("Deploy", &production, "2222").await.1, "main");
    let deployment = json!({ "deploymentId": promotion });
    hosting.start_task("Rollback", &production, deployment).await;
    let lease = runner.lease_task().await;
    assert_eq!((&lease["branch"], &lease["commit"]), (&json!("next"), &json!("1111")));
    suite.finish().await;
}
