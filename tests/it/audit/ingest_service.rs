//! Ingestion of events: order, deduplication, forged and malformed events, heartbeats, outbox reconciliation.

use api::{
    audit::{
        AppendRequest, AuditEventUnparseable, ConfirmRequest, ConfirmResponse,
        ingest_service_client::IngestServiceClient,
    },
    event::{Actor, ActorKind, Envelope, Resource},
    identity::UserLoginFailed,
};
use prost::{Message, Name};
use serde_json::json;
use sqlx::Row;
use testkit::{Suite, eventually};
use uuid::Uuid;

use crate::support::{audit_client::AuditClient, world::World};

/// An event of the project service.
pub(super) fn event(org: Uuid, sequence: i64) -> Envelope {
    let event = UserLoginFailed { user_id: "u".to_owned(), reason: "password".to_owned() };
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
            type_url: UserLoginFailed::type_url(),
            value: event.encode_to_vec(),
        }),
        sequence,
        ..Default::default()
    }
}

/// Appends events as the project service; returns the ids of those whose predecessor is missing.
async fn append(suite: &Suite, envelopes: Vec<Vec<u8>>) -> Vec<String> {
    let mut log = IngestServiceClient::new(suite.project_to_audit.clone());
    log.append(AppendRequest { envelopes }).await.unwrap().into_inner().held_event_ids
}

/// Sequence numbers and flags of the entries of a tree, in order.
pub(super) async fn sequences(suite: &Suite, org: Uuid) -> Vec<(i64, i16)> {
    let leaves = "select leaf, flags from audit.entry join audit.tree on number = entry.tree
                  where org_id = $1 order by index";
    let rows = sqlx::query(leaves).bind(org).fetch_all(&suite.pool).await.unwrap();
    let sequence = |it: &sqlx::postgres::PgRow| {
        (Envelope::decode(it.get::<&[u8], _>(0)).unwrap().sequence, it.get(1))
    };
    rows.iter().map(sequence).collect()
}

/// G-02, G-04, AU-16, A-02: entries are in the order of their source, each once, independent of the order of
/// arrival: an event waits for its predecessor. `Confirm` lists missing events.
#[tokio::test(flavor = "multi_thread")]
async fn events_become_entries_once_and_in_order() {
    let suite = Suite::start().await;
    let org = chassis::id::new();
    let events: Vec<Envelope> = (1..=6).map(|it| event(org, it)).collect();
    let bytes: Vec<Vec<u8>> = events.iter().map(Message::encode_to_vec).collect();
    let pick = |numbers: &[usize]| numbers.iter().map(|it| bytes[it - 1].clone()).collect();
    let id = |n: usize| events[n - 1].id.clone();
    assert_eq!(append(&suite, pick(&[2])).await, [id(2)]);
    assert_eq!(append(&suite, pick(&[3, 1, 5, 1])).await, [id(3), id(5)], "2 is missing");
    assert_eq!(append(&suite, pick(&[5, 3, 2, 1])).await, [id(5)]);
    assert!(append(&suite, pick(&[6, 5, 4, 3, 2, 1])).await.is_empty());
    let stored_sequences: Vec<i64> = sequences(&suite, org).await.iter().map(|it| it.0).collect();
    assert_eq!(stored_sequences, [1, 2, 3, 4, 5, 6]);
    let contiguous = "select count(*) from audit.tree where size <> (
                          select count(distinct index) from audit.entry where tree = number)
                      and org_id <> 'ffffffff-ffff-ffff-ffff-ffffffffffff'";
    assert_eq!(suite.count(contiguous).await, 0);

    let mut log = IngestServiceClient::new(suite.project_to_audit.clone());
    let event_ids = vec![id(1), chassis::id::new().to_string(), id(6)];
    let ConfirmResponse { missing } =
        log.confirm(ConfirmRequest { event_ids }).await.unwrap().into_inner();
    assert_eq!(missing, [1]);
    suite.stop_unchecked().await;
}

/// an event with a wrong clock, or with a sequence number that is used again after a restore of the
/// database of its service, is stored and flagged.
#[tokio::test(flavor = "multi_thread")]
async fn unusual_events_are_stored_and_flagged() {
    let suite = Suite::start().await;
    let org = chassis::id::new();
    let ahead =
        chassis::timestamp(chassis::Clock::default().now() + chassis::clock::Duration::hours(1));
    let wrong = Envelope { occur_time: Some(ahead), ..event(org, 2) };
    let events = [event(org, 1), wrong, event(org, 1)];
    append(&suite, events.iter().map(Message::encode_to_vec).collect()).await;
    assert_eq!(sequences(&suite, org).await, [(1, 0), (2, 1), (1, 2)]);
    suite.stop_unchecked().await;
}

/// forged, malformed and oversized events are stored as unparseable, once, and block no others.
#[tokio::test(flavor = "multi_thread")]
async fn unparseable_events_are_stored_and_block_no_others() {
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
    let stored_sequences: Vec<i64> = sequences(&suite, org).await.iter().map(|it| it.0).collect();
    assert_eq!(
        stored_sequences,
        [1, 2, 3],
        "readable events are stored, without a body that is too long"
    );
    let leaves = "select leaf from audit.entry join audit.term on term.number = entry.action
                  where value = 'audit.event_unparseable' order by index";
    let rows = sqlx::query(leaves).fetch_all(&suite.pool).await.unwrap();
    let unparseable = |it: &sqlx::postgres::PgRow| {
        let leaf = Envelope::decode(it.get::<&[u8], _>(0)).unwrap();
        assert_eq!(leaf.source, "project", "the calling service");
        AuditEventUnparseable::decode(&*leaf.event.unwrap().value).unwrap()
    };
    let stored: Vec<AuditEventUnparseable> = rows.iter().map(unparseable).collect();
    let mut reasons: Vec<_> = stored.iter().map(|it| it.why.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["FORGED_SOURCE", "NO_ENVELOPE", "NO_ENVELOPE", "TOO_LONG"]);
    let garbage = stored.iter().find(|it| it.received.starts_with(b"\xff")).unwrap();
    assert_eq!(garbage.size, 11);
    assert_eq!(garbage.sha256, chassis::key::hash(b"\xff\xff no event"));
    suite.stop_unchecked().await;
}

/// Index terms are stored once, also after a batch that was rolled back, and count their entries.
#[tokio::test(flavor = "multi_thread")]
async fn index_terms_are_stored_once_and_count_their_entries() {
    let suite = Suite::start().await;
    let orgs = [chassis::id::new(), chassis::id::new()];
    let batch = |sequence: i64, name: &str| -> Vec<Vec<u8>> {
        let resource = Resource {
            kind: "project".to_owned(),
            id: chassis::id::new().to_string(),
            name: name.to_owned(),
        };
        let event =
            |org: &Uuid| Envelope { resource: Some(resource.clone()), ..event(*org, sequence) };
        orgs.iter().map(|org| event(org).encode_to_vec()).collect()
    };
    let refuse = "alter table audit.entry add constraint refused check (false) not valid";
    sqlx::query(refuse).execute(&suite.pool).await.unwrap();
    let mut log = IngestServiceClient::new(suite.project_to_audit.clone());
    let rolled_back = AppendRequest { envelopes: batch(1, "first") };
    assert!(log.append(rolled_back).await.is_err());
    let accept = "alter table audit.entry drop constraint refused";
    sqlx::query(accept).execute(&suite.pool).await.unwrap();
    for next in [batch(1, "second"), batch(2, "third"), batch(3, "third")] {
        assert!(append(&suite, next).await.is_empty());
    }
    let found = suite.fsck().await;
    assert!(found.differences.is_empty(), "{found}");

    let miscounted = "select count(*) from audit.term where entries <> (
                          select count(*) from audit.entry where entry.tree = term.tree
                          and term.number in (actor, resource, type, action, project, environment))";
    let actors = "select count(*) from audit.term where kind = 1 and value = 'project'";
    let names = "select count(*) from audit.term_name where name = 'third'";
    assert_eq!(suite.count(actors).await, 2, "one in each tree");
    assert_eq!(suite.count(names).await, 4, "each batch is about another project");
    eventually("the count of every term", async || {
        (suite.count(miscounted).await == 0).then_some(())
    })
    .await;
    suite.stop_unchecked().await;
}

/// the tree of the suite grows once a minute without events, so that a truncated log is detected.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_log_has_a_heartbeat() {
    let suite = Suite::start().await;
    let checkpoints = "select count(*) from audit.checkpoint where tree is null";
    eventually("the first heartbeat", async || (suite.count(checkpoints).await > 0).then_some(()))
        .await;
    let before = suite.count(checkpoints).await;
    for n in 1..=3 {
        suite.clock.advance(chassis::clock::Duration::seconds(60));
        eventually("a heartbeat", async || {
            (suite.count(checkpoints).await >= before + n).then_some(())
        })
        .await;
    }
    suite.finish().await;
}

/// AU-1, AU-2, AU-19: secondary events refer to the primary event of their change; a change without effect
/// writes no entry.
#[tokio::test(flavor = "multi_thread")]
async fn secondary_events_name_their_parent_and_repetitions_write_nothing() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let change =
        world.org_request(json!({ "userId": world.viewer.user_id, "role": "ORG_ROLE_VIEWER" }));
    suite.wait_for_log().await;
    let before = log.entries(json!({})).await.len();
    world.owner.call_ok("identity.v1.MemberService/ChangeMemberRole", change).await;
    suite.wait_for_log().await;
    assert_eq!(log.entries(json!({})).await.len(), before, "no change, no entry");
    let confirm = json!({ "confirmEmail": world.viewer.email });
    world.viewer.call_ok("identity.v1.UserService/DeleteAccount", confirm).await;
    suite.wait_for_log().await;
    let left = log.entries(json!({ "action": "member.left" })).await;
    let parent = left[0]["envelope"]["parentEventId"].as_str().unwrap();
    assert!(!parent.is_empty(), "the deletion of the account");
    suite.finish().await;
}

/// The outbox deletes confirmed events after a week, and sends events again that a restored log lacks.
#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_is_reconciled_with_the_log() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    ann.create_organization("acme").await.unwrap();
    suite.wait_for_log().await;
    let rows = "select count(*) from identity.outbox";
    assert!(suite.count(rows).await > 3);
    suite.clock.advance(chassis::clock::Duration::days(8));
    let ann = ann.sign_in_again().await;
    eventually("the deletion of old events", async || (suite.count(rows).await <= 1).then_some(()))
        .await;
    // Like a restored backup: the newest event is missing in the log, and its cursor is behind it.
    ann.create_organization("globex").await.unwrap();
    suite.wait_for_log().await;
    let suite = suite
        .restart(async |pool| {
            let reset_cursor = "delete from audit.outbox_cursor;
                          insert into audit.outbox_cursor (reader, source, horizon, position)
                          select 'local', 'identity', pg_current_xact_id(), 0";
            sqlx::raw_sql(reset_cursor).execute(pool).await.unwrap();
        })
        .await;
    suite.wait_for_log().await;
    suite.finish().await;
}

/// AU-1: one primary event of each method that no other test calls successfully.
#[tokio::test(flavor = "multi_thread")]
async fn rarely_called_methods_write_their_entry() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let servers = "project.v1.ServerService";
    let connect = world.org_request(json!({ "name": "eu-1", "address": "eu-1.example.com" }));
    let server = world.owner.call_ok(&format!("{servers}/ConnectServer"), connect).await;
    let server = server["server"]["id"].clone();
    let rename = json!({ "serverId": server, "name": "eu-2", "updateMask": "name" });
    world.owner.call_ok(&format!("{servers}/UpdateServer"), world.org_request(rename)).await;
    let remove = world.org_request(json!({ "serverId": server }));
    world.owner.call_ok(&format!("{servers}/RemoveServer"), remove).await;
    let keys = "identity.v1.ApiKeyService";
    let create = world.project_request(json!({ "name": "ci" }));
    let key = world.owner.call_ok(&format!("{keys}/CreateProjectApiKey"), create).await;
    let revoke = world.project_request(json!({ "apiKeyId": key["apiKey"]["id"] }));
    world.owner.call_ok(&format!("{keys}/RevokeProjectApiKey"), revoke).await;
    let register = json!({ "email": "new@example.com", "password": testkit::PASSWORD });
    suite.client.call_json("identity.v1.UserService/Register", register).await.unwrap();
    let token = testkit::Person::login(&suite.client, "new@example.com").await.unwrap();
    let new = world.viewer.with_token(&token);
    suite.clock.advance(chassis::clock::Duration::seconds(61));
    new.call_ok("identity.v1.UserService/ResendVerification", json!({})).await;
    suite.wait_for_log().await;
    let entries = log.entries(json!({ "resourceType": "server" })).await;
    let actions: Vec<_> = entries.iter().map(|it| it["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["server.removed", "server.updated", "server.connected"]);
    suite.finish().await;
}
