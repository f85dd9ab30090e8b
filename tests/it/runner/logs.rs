//! Output of programs, read by people while a real runner runs the programs.

use api::project::{self as pb, environment_log_service_client::EnvironmentLogServiceClient};
use serde_json::{Value, json};
use testkit::{Person, Repository, Suite, TIMEOUT, eventually};
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::support::{
    audit_client::as_person,
    hosting::{ENVIRONMENTS, Hosting, PROJECTS, response},
    raw,
    service_processes::ServiceProcesses,
    world::{merge, text},
};

type Messages = Streaming<pb::ReadLogsResponse>;

/// HTTP server in Perl that prints the path of each request, and its secret.
const PRINTING_SERVER: &str = r#"use IO::Socket::INET; $| = 1;
my $server = IO::Socket::INET->new(
    LocalAddr => $ENV{HOST}, LocalPort => $ENV{PORT}, Listen => 16, ReuseAddr => 1) or die "$!";
print "listening with $ENV{TOKEN}\n";
while (my $client = $server->accept) {
    my $first = <$client> // '';
    while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/ }
    print "request $first";
    print $client "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok\n";
    close $client;
}
"#;

const TOKEN: &str = "t0ken-of-the-program";

/// Deploys the printing program; returns the id of the environment.
async fn deploy(hosting: &Hosting) -> String {
    hosting.repository.write("server.pl", PRINTING_SERVER);
    hosting.repository.commit("one");
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let variable = json!({ "name": "TOKEN", "value": TOKEN, "secret": true });
    let set = hosting.request(&id, json!({ "set": [variable] }));
    hosting.owner().call_ok(&format!("{ENVIRONMENTS}/SetVariables"), set).await;
    let task = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    id
}

async fn read(
    channel: &Channel,
    hosting: &Hosting,
    reader: &Person,
    id: &str,
    query: pb::LogQuery,
) -> Result<Messages, Status> {
    let request = pb::ReadLogsRequest {
        org_id: hosting.world.org.clone(),
        project_id: hosting.world.project.clone(),
        environment_id: id.to_owned(),
        query: Some(query),
    };
    let mut client = EnvironmentLogServiceClient::new(channel.clone());
    Ok(client.read_logs(as_person(reader, request)).await?.into_inner())
}

/// Reads messages until a line contains a text, or the stream ends with an error.
async fn wait_for(messages: &mut Messages, part: &str) -> Result<Vec<String>, Status> {
    let receive = async {
        let mut lines = vec![];
        while let Some(message) = messages.message().await? {
            lines.extend(message.lines.into_iter().map(|it| it.text));
            if lines.iter().any(|it| it.contains(part)) {
                return Ok(lines);
            }
        }
        panic!("the log ended without {part:?}: {lines:?}");
    };
    tokio::time::timeout(TIMEOUT, receive).await.expect("more output")
}

/// The log of a program is followed while it is called, without secrets; the stream ends soon after its
/// reader has lost the right.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_called_program_is_followed() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = deploy(&hosting).await;
    let channel = raw::connect(suite.address).await;
    let reader = &hosting.world.admin;
    hosting.world.grant(json!({ "userId": reader.user_id }), "VIEWER").await;
    let query = pb::LogQuery { follow: true, ..Default::default() };
    let mut messages = read(&channel, &hosting, reader, &id, query).await.unwrap();
    let lines = wait_for(&mut messages, "listening").await.unwrap();
    assert_eq!(lines[0], "listening with [secret TOKEN]");
    let url = text(&hosting.get(&id).await["url"]);
    response(&url, "/from-a-reader").await;
    wait_for(&mut messages, "GET /from-a-reader").await.unwrap();

    let remove = hosting.world.org_request(json!({ "userId": reader.user_id }));
    hosting.owner().call_ok("identity.v1.MemberService/RemoveMember", remove).await;
    let ended = wait_for(&mut messages, "a line that is never printed").await.unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended:?}");
    let refused = read(&channel, &hosting, reader, &id, pb::LogQuery::default()).await;
    assert_eq!(refused.err().unwrap().code(), Code::NotFound);
    suite.finish().await;
}

/// The process that writes a log outlives the runner as its program does, and has none of its rights.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_written_without_rights_outside_of_the_group_of_the_runner() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = deploy(&hosting).await;
    let logs = suite.data_dir().join("runner").join(&id).join("logs");
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|it| it.path());
    let writers = processes
        .filter(|it| std::fs::read_link(it.join("cwd")).is_ok_and(|it| it.starts_with(&logs)));
    let writers: Vec<_> = writers.collect();
    assert_eq!(writers.len(), 1, "{writers:?}");
    let read = |file: &str| std::fs::read_to_string(writers[0].join(file)).unwrap();
    let status = read("status");
    let ids = status.lines().filter(|it| it.starts_with("Uid:") || it.starts_with("Gid:"));
    for line in ids {
        assert!(line.split_whitespace().skip(1).all(|it| it != "0"), "{line}");
    }
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    assert!(read("cgroup").lines().any(|it| it.ends_with("/tenantry/logs")), "{}", read("cgroup"));
    suite.finish().await;
}

/// Deploys the printing program with services that run as processes; returns its owner and the ids of the
/// environment.
pub(super) async fn deploy_to(processes: &ServiceProcesses) -> (Person, Value) {
    let identity = &processes.clients.identity;
    let owner = Person::join(identity, &processes.mailbox, "owner@example.com").await.unwrap();
    let org = owner.create_organization("acme").await.unwrap();
    let project = processes.clients.project.with_token(&owner.token);
    let repository = Repository::new("one");
    repository.write("server.pl", PRINTING_SERVER);
    repository.commit("one");
    let create = json!({ "orgId": org, "name": "Shop", "repositoryUrl": repository.url() });
    let created = project.call_json(&format!("{PROJECTS}/CreateProject"), create).await.unwrap();
    let ids = json!({ "orgId": org, "projectId": created["project"]["id"] });
    let create = merge(ids.clone(), json!({ "name": "main", "deployNow": true }));
    let method = format!("{ENVIRONMENTS}/CreateEnvironment");
    let created = eventually("a server that takes environments", async || {
        project.call_json(&method, create.clone()).await.ok()
    })
    .await;
    let environment = merge(ids, json!({ "environmentId": created["environment"]["id"] }));
    let method = format!("{ENVIRONMENTS}/GetEnvironment");
    eventually("a running program", async || {
        let got = project.call_json(&method, environment.clone()).await.unwrap();
        (got["environment"]["state"] == "ENVIRONMENT_STATE_RUNNING").then_some(())
    })
    .await;
    (owner, environment)
}

/// Runner and readers may call different replicas, which forward the parts through NATS.
#[tokio::test(flavor = "multi_thread")]
async fn each_replica_reads_logs() {
    let processes = ServiceProcesses::start_with_replica_of(Some("project")).await;
    let runner = processes.start_runner();
    let (owner, environment) = deploy_to(&processes).await;
    for url in processes.urls_of("project") {
        let channel = processes.channel(&url).await;
        let request = pb::ReadLogsRequest {
            org_id: text(&environment["orgId"]),
            project_id: text(&environment["projectId"]),
            environment_id: text(&environment["environmentId"]),
            query: None,
        };
        // The runner waits at one of the replicas at a time, so several calls meet both cases.
        for _ in 0..4 {
            let mut client = EnvironmentLogServiceClient::new(channel.clone());
            let messages = client.read_logs(as_person(&owner, request.clone())).await;
            let logs = || processes.logs();
            let mut messages =
                messages.unwrap_or_else(|it| panic!("{it}\n{}", logs())).into_inner();
            wait_for(&mut messages, "listening").await.unwrap();
        }
    }
    assert!(runner.stop(), "the runner drains");
    processes.stop().await;
}
