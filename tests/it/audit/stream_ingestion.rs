//! Ingestion from the stream of events while more than a batch waits: order and completeness with a second
//! replica and with failures of the database.

use async_nats::jetstream;
use prost::Message;
use testkit::{Nats, Options, Suite, eventually};
use uuid::Uuid;

use super::ingest_service::{event, sequences};

/// Events of each organization.
const EVENTS: i64 = 3_000;

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
            acks.push(
                stream
                    .publish(subject, event(*org, sequence).encode_to_vec().into())
                    .await
                    .unwrap(),
            );
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
        let recorded: Vec<i64> = sequences(&suite, org).await.into_iter().map(|it| it.0).collect();
        assert_eq!(recorded, (1..=EVENTS).collect::<Vec<_>>());
    }
    let found = suite.fsck().await;
    assert!(found.differences.is_empty(), "{found}");
    second.stop_replica().await;
    suite.stop_unchecked().await;
}
