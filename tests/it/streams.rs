//! Server streams: so many at once, and only as long as their reader may.

use std::pin::Pin;

use api::{
    audit::{self as aud, audit_service_client::AuditServiceClient},
    invitation::{self as inv, notification_service_client::NotificationServiceClient},
    project::{self as prj, task_service_client::TaskServiceClient},
};
use chassis::clock::Duration;
use futures::{Stream, StreamExt};
use serde_json::json;
use testkit::{Options, PATIENCE, Person, Suite};
use tonic::{Code, Status, transport::Channel};

use crate::{
    ledger::{Ledger, as_person},
    raw,
    tasks::Hand,
    world::World,
};

/// The messages of any stream, without what they say.
type Messages = Pin<Box<dyn Stream<Item = Result<(), Status>> + Send>>;

fn messages<M: Send + 'static>(answer: tonic::Response<tonic::Streaming<M>>) -> Messages {
    Box::pin(answer.into_inner().map(|it| it.map(|_| ())))
}

/// How a stream ends, after what is on its way already.
async fn end(mut stream: Messages) -> Status {
    let end = async {
        loop {
            match stream.next().await {
                Some(Ok(())) => {}
                Some(Err(status)) => return status,
                None => panic!("the stream ended without an error"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, end).await.expect("the stream ends")
}

/// A connection over which hardly anything is sent before it is asked for.
async fn narrow(suite: &Suite) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", suite.address)).unwrap();
    endpoint.initial_stream_window_size(65_535).connect().await.unwrap()
}

/// More entries than the buffers of a connection hold.
async fn fill(world: &World) {
    let page = "x".repeat(480);
    for number in 0..400 {
        let name = json!({ "name": format!("crew {number}"), "description": page });
        world.owner.tell("identity.v1.TeamService/CreateTeam", world.here(name)).await;
    }
}

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

/// An export that has begun ends when its reader is removed from the organization, or signs out elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_ends_with_the_right_of_its_reader() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    fill(&world).await;
    Ledger::new(&suite, &world.owner, &world.org).await.head(&suite).await;
    let other = world.owner.again().await;
    let removed = export(&narrow(&suite).await, &world.admin, &world.org).await;
    let revoked = export(&narrow(&suite).await, &other, &world.org).await;
    let remove = world.here(json!({ "userId": world.admin.user_id }));
    world.owner.tell("identity.v1.MemberService/RemoveMember", remove).await;
    world.owner.tell("identity.v1.SessionService/RevokeOtherSessions", json!({})).await;
    suite.clock.advance(Duration::seconds(10));
    let removed = end(removed).await;
    assert_eq!(
        (removed.code(), raw::reason(&removed).as_str()),
        (Code::PermissionDenied, "MISSING_PERMISSION")
    );
    let revoked = end(revoked).await;
    assert_eq!(
        (revoked.code(), raw::reason(&revoked).as_str()),
        (Code::Unauthenticated, "INVALID_CREDENTIAL")
    );
    suite.finish().await;
}

/// Each method of the contract that streams; a new one has to be added here.
async fn every_stream(hand: &Hand, task: &str, channel: &Channel) -> Vec<(&'static str, Messages)> {
    let world = &hand.hosting.world;
    let (reader, org_id) = (&world.owner, world.org.clone());
    let mut audit = AuditServiceClient::new(channel.clone());
    let watch = aud::WatchEntriesRequest { org_id: org_id.clone(), ..Default::default() };
    let watch = audit.watch_entries(as_person(reader, watch)).await.unwrap();
    let mut tasks = TaskServiceClient::new(channel.clone());
    let log = prj::WatchTaskLogRequest {
        org_id: org_id.clone(),
        project_id: world.project.clone(),
        task_id: task.to_owned(),
        ..Default::default()
    };
    let log = tasks.watch_task_log(as_person(reader, log)).await.unwrap();
    let mut notifications = NotificationServiceClient::new(channel.clone());
    let news = inv::WatchNotificationsRequest::default();
    let news = notifications.watch_notifications(as_person(reader, news)).await.unwrap();
    vec![
        ("tenantry.audit.v1.AuditService/WatchEntries", messages(watch)),
        ("tenantry.project.v1.TaskService/WatchTaskLog", messages(log)),
        ("tenantry.invitation.v1.NotificationService/WatchNotifications", messages(news)),
        ("tenantry.audit.v1.AuditService/ExportEntries", export(channel, reader, &org_id).await),
    ]
}

/// Whatever streams ends with the session that opened it, also if there is nothing to send.
#[tokio::test(flavor = "multi_thread")]
async fn every_stream_ends_with_its_session() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let world = &hand.hosting.world;
    fill(world).await;
    hand.beat().await;
    let environment = hand.environment("main").await;
    let task = hand.hosting.queue("Deploy", &environment, json!({})).await;
    Ledger::new(&suite, &world.owner, &world.org).await.head(&suite).await;
    let opened = every_stream(&hand, &task, &narrow(&suite).await).await;
    let mut of_contract: Vec<_> =
        raw::methods().iter().filter(|it| it.is_server_streaming()).map(raw::name).collect();
    let mut tested: Vec<_> = opened.iter().map(|it| it.0.to_owned()).collect();
    of_contract.sort_unstable();
    tested.sort_unstable();
    assert_eq!(tested, of_contract);
    let other = world.owner.again().await;
    other.tell("identity.v1.SessionService/RevokeOtherSessions", json!({})).await;
    suite.clock.advance(Duration::seconds(10));
    for (method, stream) in opened {
        assert_eq!(end(stream).await.code(), Code::Unauthenticated, "{method}");
    }
    suite.finish().await;
}

async fn watch(channel: &Channel, person: &Person) -> Result<Messages, Status> {
    let request = as_person(person, inv::WatchNotificationsRequest::default());
    let mut client = NotificationServiceClient::new(channel.clone());
    client.watch_notifications(request).await.map(messages)
}

/// An account that opens as many streams as it may is refused the next one; others are not, and a stream
/// that has ended makes room.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_opens_so_many_streams() {
    let suite = Suite::start().await;
    let (ann, bob) = (suite.person("ann@example.com").await, suite.person("bob@example.com").await);
    let channel = raw::connect(suite.address).await;
    let mut open = vec![];
    let refused = loop {
        assert!(open.len() < 200, "an account opens as many streams as it wants");
        match watch(&channel, &ann).await {
            Ok(stream) => open.push(stream),
            Err(refused) => break refused,
        }
    };
    assert_eq!(
        (refused.code(), raw::reason(&refused).as_str()),
        (Code::ResourceExhausted, "OPEN_CALL_LIMIT")
    );
    watch(&channel, &ann.again().await).await.err().expect("another session is the same account");
    drop(watch(&channel, &bob).await.unwrap());
    open.pop();
    let room = testkit::eventually("room", async || watch(&channel, &ann).await.ok()).await;
    drop(room);
    suite.finish().await;
}

/// The streams in one organization are bounded, whoever opens them; another organization is not concerned.
#[tokio::test(flavor = "multi_thread")]
async fn an_organization_has_so_many_streams() {
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
