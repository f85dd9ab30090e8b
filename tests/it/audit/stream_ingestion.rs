//! Ingestion from the stream of events while more than a batch waits: order and completeness with a second
//! replica and with failures of the database.

use api::{
    event::{Actor, ActorKind, Envelope},
    identity::UserLoginFailed,
};
use async_nats::jetstream;
use prost::{Message, Name};
use sqlx::Row;
use testkit::{Nats, Options, Suite, eventually};
use uuid::Uuid;

/// Events of each organization.
const EVENTS: i64 = 3_000;

/// An event of the project service.
fn event(org: Uuid, sequence: i64) -> Vec<u8> {
    let event = UserLoginFailed { user_id: "u".to_owned(), reason: "password".to_owned() };
    let envelope = Envelope {
        id: chassis::id::new().to_string(),
        source: "project".to_owned(),
        org_id: org.to_string(),
        actor: Some(Actor {
            kind: ActorKind::User.into(),
            id: Uuid::from_u128(u128::try_from(sequence % 7).unwrap() + 1).to_string(),
            name: format!("Person {}", sequence % 7),
            ..Default::default()
        }),
        occur_time: Some(chassis::timestamp(chassis::Clock::default().now())),
        event: Some(prost_types::Any {
            type_url: UserLoginFailed::type_url(),
            value: event.encode_to_vec(),
        }),
        sequence,
        ..Default::default()
    };
    envelope.encode_to_vec()
}

/// Number of entries of these organizations.
async fn count(suite: &Suite, orgs: &[Uuid]) -> i64 {
    let count = "select coalesce(sum(size), 0)::bigint from audit.tree where org_id = any ($1)";
    sqlx::query_scalar(count).bind(orgs).fetch_one(&suite.pool).await.unwrap()
}

/// G-02, G-04: every event becomes one entry, in the order of its producer, although transactions are aborted
/// and another replica records, too.
#[tokio::test(flavor = "multi_thread")]
async fn batches_of_two_replicas_are_recorded_once_and_in_order() {
    let nats = Nats::start();
    // The published events are in no outbox, so reconciliation must not run.
    let options =
        Options { nats_url: Some(nats.url()), nats_patience_s: 3_600, ..Options::default() };
    let stream = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let suite = Suite::start_with(options).await;
    let second = suite.replica().await;
    let orgs: Vec<Uuid> = (0..3).map(|_| chassis::id::new()).collect();
    for first in (1..=EVENTS).step_by(500) {
        let mut acks = vec![];
        for (sequence, org) in
            (first..first + 500).flat_map(|it| orgs.iter().map(move |org| (it, org)))
        {
            let subject = format!("tenantry.project.v1.user_login_failed.{org}");
            acks.push(stream.publish(subject, event(*org, sequence).into()).await.unwrap());
        }
        for ack in acks {
            ack.await.unwrap();
        }
    }
    let total = EVENTS * 3;
    // The sessions of both replicas, in the middle of their transactions.
    let end_sessions = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                        where datname = current_database() and application_name = 'audit'";
    for part in 1..=3 {
        eventually("a part of the entries", async || {
            (count(&suite, &orgs).await >= total * part / 4).then_some(())
        })
        .await;
        suite.count(end_sessions).await;
    }
    eventually("all entries", async || (count(&suite, &orgs).await == total).then_some(())).await;

    for org in orgs {
        let leaves = "select leaf from audit.entry join audit.tree on number = entry.tree
                      where org_id = $1 order by index";
        let rows = sqlx::query(leaves).bind(org).fetch_all(&suite.pool).await.unwrap();
        let sequence =
            |it: &sqlx::postgres::PgRow| Envelope::decode(it.get::<&[u8], _>(0)).unwrap().sequence;
        let sequences: Vec<i64> = rows.iter().map(sequence).collect();
        assert_eq!(sequences, (1..=EVENTS).collect::<Vec<_>>());
    }
    let found = suite.fsck().await;
    assert!(found.differences.is_empty(), "{found}");
    second.stop_replica().await;
    suite.stop_unchecked().await;
}
