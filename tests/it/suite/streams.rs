//! Server streams: limits per account and organization, and their end with the session or permission of the
//! reader.

use std::pin::Pin;

use api::{
    audit::{self as aud, audit_service_client::AuditServiceClient},
    notification::{self as ntf, notification_service_client::NotificationServiceClient},
    project::{
        self as prj, environment_command_service_client::EnvironmentCommandServiceClient,
        environment_log_service_client::EnvironmentLogServiceClient,
        task_service_client::TaskServiceClient,
    },
};
use chassis::clock::Duration;
use futures::{SinkExt, Stream, StreamExt, channel::mpsc};
use serde_json::{Value, json};
use testkit::{Options, Person, Suite, TIMEOUT};
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    audit_client::{AuditClient, as_person},
    command_session::command,
    fake_runner::{FakeRunner, success_result},
    raw,
    world::{World, text},
};

/// A stream without the contents of its messages.
type Messages = Pin<Box<dyn Stream<Item = Result<(), Status>> + Send>>;

/// Drops the contents of the messages of a stream.
fn messages<M: Send + 'static>(answer: tonic::Response<tonic::Streaming<M>>) -> Messages {
    Box::pin(answer.into_inner().map(|it| it.map(|_| ())))
}

/// Reads a stream to its end; returns the error with which it must end.
async fn error_at_end(mut stream: Messages) -> Status {
    let end = async {
        loop {
            match stream.next().await {
                Some(Ok(())) => {}
                Some(Err(status)) => return status,
                None => panic!("the stream ended without an error"),
            }
        }
    };
    tokio::time::timeout(TIMEOUT, end).await.expect("the stream ends")
}

/// A connection with a small flow-control window, so that most messages stay on the server.
async fn small_window_channel(suite: &Suite) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", suite.address)).unwrap();
    endpoint.initial_stream_window_size(65_535).connect().await.unwrap()
}

/// Writes more entries than the buffers of a connection hold.
async fn write_entries(world: &World) {
    let page = "x".repeat(480);
    for number in 0..400 {
        let create = json!({ "name": format!("crew {number}"), "description": page });
        world.owner.call_ok("identity.v1.TeamService/CreateTeam", world.org_request(create)).await;
    }
}

/// Starts an export and reads its first message.
async fn export(channel: &Channel, reader: &Person, org: &str) -> Messages {
    let request = aud::ExportEntriesRequest {
        org_id: org.to_owned(),
        format: aud::ExportFormat::Json.into(),
        ..Default::default()
    };
    let mut client = AuditServiceClient::new(channel.clone());
    let mut stream = messages(client.export_entries(as_person(reader, request)).await.unwrap());
    stream.next().await.unwrap().unwrap();
    stream
}

/// A running export ends when its reader is removed from the organization or their session is revoked.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_ends_with_the_permission_of_its_reader() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    write_entries(&world).await;
    AuditClient::new(&suite, &world.owner, &world.org).await.checkpoint(&suite).await;
    let other = world.owner.sign_in_again().await;
    let removed = export(&small_window_channel(&suite).await, &world.admin, &world.org).await;
    let revoked = export(&small_window_channel(&suite).await, &other, &world.org).await;
    let remove = world.org_request(json!({ "userId": world.admin.user_id }));
    world.owner.call_ok("identity.v1.MemberService/RemoveMember", remove).await;
    world.owner.call_ok("identity.v1.SessionService/RevokeOtherSessions", json!({})).await;
    suite.clock.advance(Duration::seconds(10));
    let removed = error_at_end(removed).await;
    assert_eq!(
        (removed.code(), raw::reason(&removed).as_str()),
        (Code::PermissionDenied, "MISSING_PERMISSION")
    );
    let revoked = error_at_end(revoked).await;
    assert_eq!(
        (revoked.code(), raw::reason(&revoked).as_str()),
        (Code::Unauthenticated, "INVALID_CREDENTIAL")
    );
    suite.finish().await;
}

/// Starts a command that has no output; it ends when the sender is dropped.
async fn open_command(
    runner: &FakeRunner,
    task: &Value,
    channel: &Channel,
) -> (mpsc::Sender<prj::RunCommandRequest>, Messages) {
    let world = &runner.hosting.world;
    // Of another environment, because the log of a finished task ends.
    let environment = runner.environment("commands").await;
    runner.hosting.start_task("Deploy", &environment, json!({})).await;
    let first = runner.lease_task().await;
    assert_eq!(first["taskId"], task["id"]);
    let lease = runner.lease_task().await;
    runner.finish_task(&lease, success_result()).await.unwrap();
    let (mut requests, receiver) = mpsc::channel(1);
    requests.send(command(world, &environment, &[])).await.unwrap();
    let mut commands = EnvironmentCommandServiceClient::new(channel.clone());
    let (command, lease) = tokio::join!(
        commands.run_command(as_person(&world.owner, receiver)),
        runner.call("LeaseStream", json!({ "wait": "20s" })),
    );
    assert!(lease.unwrap()["lease"]["command"].is_object());
    (requests, messages(command.unwrap()))
}

/// Opens a stream of each streaming method; a new method has to be added here. Also returns the sender of the
/// requests of a stream of both, which ends with them.
async fn every_stream(
    runner: &FakeRunner,
    task: &Value,
    channel: &Channel,
) -> (Vec<(&'static str, Messages)>, mpsc::Sender<prj::RunCommandRequest>) {
    let world = &runner.hosting.world;
    let reader = &world.owner;
    let org_id = world.org.clone();
    let mut audit = AuditServiceClient::new(channel.clone());
    let watch = aud::WatchEntriesRequest { org_id: org_id.clone(), ..Default::default() };
    let watch = audit.watch_entries(as_person(reader, watch)).await.unwrap();
    let mut tasks = TaskServiceClient::new(channel.clone());
    let log = prj::WatchTaskLogRequest {
        org_id: org_id.clone(),
        project_id: world.project.clone(),
        task_id: text(&task["id"]),
        ..Default::default()
    };
    let log = tasks.watch_task_log(as_person(reader, log)).await.unwrap();
    let output = prj::ReadLogsRequest {
        org_id: org_id.clone(),
        project_id: world.project.clone(),
        environment_id: text(&task["environmentId"]),
        query: None,
    };
    let mut logs = EnvironmentLogServiceClient::new(channel.clone());
    let (output, lease) = tokio::join!(
        logs.read_logs(as_person(reader, output)),
        runner.call("LeaseStream", json!({ "wait": "20s" })),
    );
    assert!(lease.unwrap()["lease"].is_object());
    let (requests, command) = open_command(runner, task, channel).await;
    let mut notifications = NotificationServiceClient::new(channel.clone());
    let request = ntf::WatchNotificationsRequest::default();
    let inbox = notifications.watch_notifications(as_person(reader, request)).await.unwrap();
    let streams = vec![
        ("tenantry.audit.v1.AuditService/WatchEntries", messages(watch)),
        ("tenantry.project.v1.TaskService/WatchTaskLog", messages(log)),
        ("tenantry.project.v1.EnvironmentLogService/ReadLogs", messages(output.unwrap())),
        ("tenantry.project.v1.EnvironmentCommandService/RunCommand", command),
        ("tenantry.notification.v1.NotificationService/WatchNotifications", messages(inbox)),
        ("tenantry.audit.v1.AuditService/ExportEntries", export(channel, reader, &org_id).await),
    ];
    (streams, requests)
}

/// Every stream ends with its session, also without new messages.
#[tokio::test(flavor = "multi_thread")]
async fn every_stream_ends_with_its_session() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let world = &runner.hosting.world;
    write_entries(world).await;
    runner.heartbeat().await;
    let environment = runner.environment("main").await;
    let task = runner.hosting.start_task("Deploy", &environment, json!({})).await;
    let task = runner.hosting.task(&task).await;
    AuditClient::new(&suite, &world.owner, &world.org).await.checkpoint(&suite).await;
    let (opened, _requests) =
        every_stream(&runner, &task, &small_window_channel(&suite).await).await;
    let mut of_contract: Vec<_> =
        raw::methods().iter().filter(|it| it.is_server_streaming()).map(raw::name).collect();
    let mut tested: Vec<_> = opened.iter().map(|it| it.0.to_owned()).collect();
    of_contract.sort_unstable();
    tested.sort_unstable();
    assert_eq!(tested, of_contract, "`every_stream` opens a stream of each streaming method");
    let other = world.owner.sign_in_again().await;
    other.call_ok("identity.v1.SessionService/RevokeOtherSessions", json!({})).await;
    suite.clock.advance(Duration::seconds(10));
    for (method, stream) in opened {
        assert_eq!(error_at_end(stream).await.code(), Code::Unauthenticated, "{method}");
    }
    suite.finish().await;
}

/// Opens a stream of notifications.
async fn watch(channel: &Channel, person: &Person) -> Result<Messages, Status> {
    let request = as_person(person, ntf::WatchNotificationsRequest::default());
    let mut client = NotificationServiceClient::new(channel.clone());
    client.watch_notifications(request).await.map(messages)
}

/// The number of open streams per account is limited over all its sessions; the end of a stream frees its
/// slot.
#[tokio::test(flavor = "multi_thread")]
async fn streams_per_account_are_limited() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let bob = suite.person("bob@example.com").await;
    let channel = raw::connect(suite.address).await;
    let mut open = vec![];
    let refused = loop {
        assert!(open.len() < 200, "no limit after 200 streams");
        match watch(&channel, &ann).await {
            Ok(stream) => open.push(stream),
            Err(refused) => break refused,
        }
    };
    assert_eq!(
        (refused.code(), raw::reason(&refused).as_str()),
        (Code::ResourceExhausted, "OPEN_CALL_LIMIT")
    );
    watch(&channel, &ann.sign_in_again().await)
        .await
        .err()
        .expect("the limit holds for other sessions");
    drop(watch(&channel, &bob).await.unwrap());
    open.pop();
    let stream =
        testkit::eventually("a free slot", async || watch(&channel, &ann).await.ok()).await;
    drop(stream);
    suite.finish().await;
}

/// The number of open streams per organization is limited over all readers; other organizations are not
/// affected.
#[tokio::test(flavor = "multi_thread")]
async fn streams_per_organization_are_limited() {
    let suite =
        Suite::start_with(Options { open_calls_per_org_max: 3, ..Options::default() }).await;
    let world = World::new(&suite).await;
    let channel = raw::connect(suite.address).await;
    let watch = async |person: &Person, org: &str| {
        let request = aud::WatchEntriesRequest { org_id: org.to_owned(), ..Default::default() };
        let mut client = AuditServiceClient::new(channel.clone());
        client.watch_entries(as_person(person, request)).await.map(messages)
    };
    let mut open = vec![];
    for reader in [&world.owner, &world.admin, &world.owner] {
        open.push(watch(reader, &world.org).await.unwrap());
    }
    let refused = watch(&world.admin, &world.org).await.err().unwrap();
    assert_eq!(
        (refused.code(), raw::reason(&refused).as_str()),
        (Code::ResourceExhausted, "OPEN_CALL_LIMIT")
    );
    assert!(refused.message().contains("this organization has 3"), "{}", refused.message());
    let other = suite.person("other@example.com").await;
    let org = other.create_organization("other").await.unwrap();
    drop(watch(&other, &org).await.unwrap());
    suite.finish().await;
}

/// The streams of a connection that has reached its largest age end with a reason, also those of the health
/// service, and can be opened again.
#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_a_reason_when_their_connection_expires() {
    let options = Options { connection_age_ms_max: 3_000, ..Options::default() };
    let suite = Suite::start_with(options).await;
    let ann = suite.person("ann@example.com").await;
    let channel = raw::connect(suite.address).await;
    let inbox = watch(&channel, &ann).await.unwrap();
    let health = "grpc.health.v1.Health/Watch";
    let health = raw::stream(&channel, health).await.unwrap();
    for stream in [inbox, Box::pin(health.map(|it| it.map(drop)))] {
        let ended = error_at_end(stream).await;
        assert_eq!(
            (ended.code(), raw::reason(&ended).as_str()),
            (Code::Unavailable, "CONNECTION_EXPIRED")
        );
    }
    // The channel connects again by itself, as soon as it knows that its connection has ended.
    testkit::eventually("a new connection", async || watch(&channel, &ann).await.ok().map(drop))
        .await;
    suite.finish().await;
}
