//! What services hand to the log: once, in order, whatever arrives, and from nobody but themselves.

use api::{
    audit::{
        AppendRequest, ConfirmRequest, ConfirmResponse, Unparseable,
        ingest_service_client::IngestServiceClient,
    },
    event::{Actor, ActorKind, Envelope},
    identity::LoginFailed,
};
use prost::{Message, Name};
use serde_json::json;
use sqlx::Row;
use testkit::{Suite, eventually};
use uuid::Uuid;

use crate::{ledger::Ledger, world::World};

/// An event of the project service.
fn event(org: Uuid, sequence: i64) -> Envelope {
    let told = LoginFailed { user_id: "u".to_owned(), reason: "password".to_owned() };
    Envelope {
        id: chassis::id::new().to_string(),
        source: "project".to_owned(),
        org_id: if org.is_nil() { String::new() } else { org.to_string() },
        actor: Some(Actor {
            kind: ActorKind::System.into(),
            id: "project".to_owned(),
            ..Default::default()
        }),
        occur_time: Some(chassis::timestamp(chassis::Clock::default().now())),
        event: Some(prost_types::Any {
            type_url: LoginFailed::type_url(),
            value: told.encode_to_vec(),
        }),
        sequence,
        ..Default::default()
    }
}

/// Hands events over as the project service; answers those that the log cannot take yet.
async fn append(suite: &Suite, envelopes: Vec<Vec<u8>>) -> Vec<String> {
    let mut log = IngestServiceClient::new(suite.producer.clone());
    log.append(AppendRequest { envelopes }).await.unwrap().into_inner().held_event_ids
}

/// The numbers of a tree, in the order of its entries, and its flags.
async fn numbers(suite: &Suite, org: Uuid) -> Vec<(i64, i16)> {
    let leaves = "select leaf, flags from audit.entry join audit.tree on number = entry.tree
                  where org_id = $1 order by index";
    let rows = sqlx::query(leaves).bind(org).fetch_all(&suite.pool).await.unwrap();
    let number = |it: &sqlx::postgres::PgRow| {
        (Envelope::decode(it.get::<&[u8], _>(0)).unwrap().sequence, it.get(1))
    };
    rows.iter().map(number).collect()
}

/// G-02, G-04, AU-16, A-02: whatever the order of arrival, entries are in the order of their service, each
/// once; what comes before its predecessor waits for it. What is known is confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn events_become_entries_once_and_in_order() {
    let suite = Suite::start().await;
    let org = chassis::id::new();
    let events: Vec<Envelope> = (1..=6).map(|it| event(org, it)).collect();
    let bytes: Vec<Vec<u8>> = events.iter().map(Message::encode_to_vec).collect();
    let pick = |which: &[usize]| which.iter().map(|it| bytes[it - 1].clone()).collect();
    let id = |n: usize| events[n - 1].id.clone();
    assert_eq!(append(&suite, pick(&[2])).await, [id(2)]);
    assert_eq!(append(&suite, pick(&[3, 1, 5, 1])).await, [id(3), id(5)], "2 is not there");
    assert_eq!(append(&suite, pick(&[5, 3, 2, 1])).await, [id(5)]);
    assert!(append(&suite, pick(&[6, 5, 4, 3, 2, 1])).await.is_empty());
    let told: Vec<i64> = numbers(&suite, org).await.iter().map(|it| it.0).collect();
    assert_eq!(told, [1, 2, 3, 4, 5, 6]);
    let contiguous = "select count(*) from audit.tree where size <> (
                          select count(distinct index) from audit.entry where tree = number)
                      and org_id <> 'ffffffff-ffff-ffff-ffff-ffffffffffff'";
    assert_eq!(suite.count(contiguous).await, 0);

    let mut log = IngestServiceClient::new(suite.producer.clone());
    let event_ids = vec![id(1), chassis::id::new().to_string(), id(6)];
    let ConfirmResponse { missing } =
        log.confirm(ConfirmRequest { event_ids }).await.unwrap().into_inner();
    assert_eq!(missing, [1]);
    suite.abandon().await;
}

/// A service whose database went back uses numbers again: nothing is lost, and the entry says so. A-15: so it
/// does if the clock of a service is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_odd_is_kept_and_flagged() {
    let suite = Suite::start().await;
    let org = chassis::id::new();
    let ahead =
        chassis::timestamp(chassis::Clock::default().now() + chassis::clock::Duration::hours(1));
    let wrong = Envelope { occur_time: Some(ahead), ..event(org, 2) };
    let events = [event(org, 1), wrong, event(org, 1)];
    append(&suite, events.iter().map(Message::encode_to_vec).collect()).await;
    assert_eq!(numbers(&suite, org).await, [(1, 0), (2, 1), (1, 2)]);
    suite.abandon().await;
}

/// a service writes no event of another; what is no event, or is too long, is kept as what it is,
/// once, and holds nobody back.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_kept_and_stops_nobody() {
    let suite = Suite::start().await;
    let org = chassis::id::new();
    let forged = Envelope { source: "identity".to_owned(), ..event(org, 1) };
    let long = Envelope { reason: "x".repeat(50_000), ..event(org, 2) };
    let broken = Envelope { id: "no uuid".to_owned(), ..event(org, 9) };
    let batch = vec![
        b"\xff\xff no event".to_vec(),
        event(org, 1).encode_to_vec(),
        forged.encode_to_vec(),
        b"\xff\xff no event".to_vec(),
        long.encode_to_vec(),
        broken.encode_to_vec(),
        event(org, 3).encode_to_vec(),
    ];
    assert!(append(&suite, batch.clone()).await.is_empty());
    append(&suite, batch[..4].to_vec()).await;
    let told: Vec<i64> = numbers(&suite, org).await.iter().map(|it| it.0).collect();
    assert_eq!(
        told,
        [1, 2, 3],
        "what can be read goes its way, without its body if that is too long"
    );
    let leaves = "select leaf from audit.entry join audit.term on term.number = entry.action
                  where value = 'audit.unparseable' order by index";
    let rows = sqlx::query(leaves).fetch_all(&suite.pool).await.unwrap();
    let why = |it: &sqlx::postgres::PgRow| {
        let leaf = Envelope::decode(it.get::<&[u8], _>(0)).unwrap();
        assert_eq!(leaf.source, "project", "who handed it over");
        Unparseable::decode(&*leaf.event.unwrap().value).unwrap()
    };
    let kept: Vec<Unparseable> = rows.iter().map(why).collect();
    let mut reasons: Vec<_> = kept.iter().map(|it| it.why.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["FORGED_SOURCE", "NO_ENVELOPE", "NO_ENVELOPE", "TOO_LONG"]);
    let garbage = kept.iter().find(|it| it.received.starts_with(b"\xff")).unwrap();
    assert_eq!(garbage.size, 11);
    assert_eq!(garbage.sha256, chassis::key::hash(b"\xff\xff no event"));
    suite.abandon().await;
}

/// when nothing happens, the suite's tree still grows once a minute: a missing end shows.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_log_has_a_heartbeat() {
    let suite = Suite::start().await;
    let beats = "select count(*) from audit.checkpoint where tree is null";
    eventually("the first heartbeat", async || (suite.count(beats).await > 0).then_some(())).await;
    let before = suite.count(beats).await;
    for n in 1..=3 {
        suite.clock.advance(chassis::clock::Duration::seconds(60));
        eventually("a heartbeat", async || (suite.count(beats).await >= before + n).then_some(()))
            .await;
    }
    suite.finish().await;
}

/// AU-1, AU-2, AU-19: the first event of a change is its primary one, and what follows from it names it; what
/// is so already leaves no entry.
#[tokio::test(flavor = "multi_thread")]
async fn a_cascade_names_its_cause_and_a_repetition_leaves_nothing() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    let change = world.here(json!({ "userId": world.viewer.user_id, "role": "ORG_ROLE_VIEWER" }));
    suite.logged().await;
    let before = ledger.find(json!({})).await.len();
    world.owner.tell("identity.v1.MemberService/ChangeMemberRole", change).await;
    suite.logged().await;
    assert_eq!(ledger.find(json!({})).await.len(), before, "no change, no entry");
    let confirm = json!({ "confirmEmail": world.viewer.email });
    world.viewer.tell("identity.v1.UserService/DeleteAccount", confirm).await;
    suite.logged().await;
    let left = ledger.find(json!({ "action": "member.left" })).await;
    let parent = left[0]["envelope"]["parentEventId"].as_str().unwrap();
    assert!(!parent.is_empty(), "the deletion of the account");
    suite.finish().await;
}

/// The outbox forgets what the log has confirmed and everybody has read, a week later; what the log lacks is
/// handed over again, even if the log had confirmed it before.
#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_is_settled_with_the_log() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    ann.create_organization("acme").await.unwrap();
    suite.logged().await;
    let rows = "select count(*) from identity.outbox";
    assert!(suite.count(rows).await > 3);
    suite.clock.advance(chassis::clock::Duration::days(8));
    let ann = ann.again().await;
    eventually("old events go", async || (suite.count(rows).await <= 1).then_some(())).await;
    // The log of a restored backup: the newest event is not in it any more, and its reader believes it is.
    ann.create_organization("globex").await.unwrap();
    suite.logged().await;
    let suite = suite
        .restart(async |pool| {
            let forget = "delete from audit.outbox_cursor;
                          insert into audit.outbox_cursor (reader, source, horizon, position)
                          select 'local', 'identity', pg_current_xact_id(), 0";
            sqlx::raw_sql(forget).execute(pool).await.unwrap();
        })
        .await;
    suite.logged().await;
    suite.finish().await;
}

/// AU-1: methods that no other test calls to their end: each leaves its one primary event.
#[tokio::test(flavor = "multi_thread")]
async fn small_changes_leave_their_entry_too() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    let servers = "project.v1.ServerService";
    let connect = world.here(json!({ "name": "eu-1", "address": "eu-1.example.com" }));
    let server = world.owner.tell(&format!("{servers}/ConnectServer"), connect).await;
    let server = server["server"]["id"].clone();
    let rename = json!({ "serverId": server, "name": "eu-2", "updateMask": "name" });
    world.owner.tell(&format!("{servers}/UpdateServer"), world.here(rename)).await;
    let remove = world.here(json!({ "serverId": server }));
    world.owner.tell(&format!("{servers}/RemoveServer"), remove).await;
    let keys = "identity.v1.ApiKeyService";
    let create = world.there(json!({ "name": "ci" }));
    let key = world.owner.tell(&format!("{keys}/CreateProjectApiKey"), create).await;
    let revoke = world.there(json!({ "apiKeyId": key["apiKey"]["id"] }));
    world.owner.tell(&format!("{keys}/RevokeProjectApiKey"), revoke).await;
    let register = json!({ "email": "new@example.com", "password": testkit::PASSWORD });
    suite.client.ask("identity.v1.UserService/Register", register).await.unwrap();
    let token = testkit::Person::login(&suite.client, "new@example.com").await.unwrap();
    let new = world.viewer.with_token(&token);
    suite.clock.advance(chassis::clock::Duration::seconds(61));
    new.tell("identity.v1.UserService/ResendVerification", json!({})).await;
    suite.logged().await;
    let told = ledger.find(json!({ "resourceType": "server" })).await;
    let actions: Vec<_> = told.iter().map(|it| it["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["server.deleted", "server.updated", "server.created"]);
    suite.finish().await;
}
