//! Lock order of trees: appends and the signer lock several trees in the order of their numbers, so that no
//! two of them can deadlock (40P01).
//!
//! The test competes with the suite: it holds the lock of the first tree, waits until the suite waits for it,
//! and locks the next one. A suite that had that lock already would deadlock with the test.

use api::{
    audit::{AppendRequest, ingest_service_client::IngestServiceClient},
    event::{Actor, ActorKind, Envelope},
    identity::UserLoginFailed,
};
use prost::{Message, Name};
use sqlx::{AssertSqlSafe, Postgres, Transaction};
use testkit::{Suite, eventually};
use uuid::Uuid;

/// An event of an organization, encoded.
fn event(org: Uuid, sequence: i64) -> Vec<u8> {
    let actor =
        Actor { kind: ActorKind::System.into(), id: "project".to_owned(), ..Default::default() };
    let envelope = Envelope {
        id: chassis::id::new().to_string(),
        source: "project".to_owned(),
        org_id: org.to_string(),
        actor: Some(actor),
        occur_time: Some(chassis::timestamp(chassis::Clock::default().now())),
        event: Some(prost_types::Any { type_url: UserLoginFailed::type_url(), value: vec![] }),
        sequence,
        ..Default::default()
    };
    envelope.encode_to_vec()
}

/// Appends events in one batch; all are recorded.
async fn append(suite: &Suite, envelopes: Vec<Vec<u8>>) {
    let mut log = IngestServiceClient::new(suite.project_to_audit.clone());
    let appended = log.append(AppendRequest { envelopes }).await.unwrap().into_inner();
    assert!(appended.held_event_ids.is_empty());
}

/// Statement that locks a tree.
const LOCK: &str = "select number from audit.tree where org_id = $1 for update";

async fn lock(tx: &mut Transaction<'_, Postgres>, org: Uuid) {
    sqlx::query(LOCK).bind(org).execute(&mut **tx).await.unwrap();
}

/// Locks a tree that must be free. Does not wait: PostgreSQL would end the deadlock by a failure of the
/// suite, which the signer repeats.
async fn lock_free(tx: &mut Transaction<'_, Postgres>, org: Uuid) {
    let lock = AssertSqlSafe(format!("{LOCK} nowait"));
    sqlx::query(lock).bind(org).execute(&mut **tx).await.expect("the lock is free");
}

/// Waits until the signer has signed this many entries of two trees.
async fn signed(suite: &Suite, orgs: [Uuid; 2], size: i64) {
    let signed = "select count(*) from audit.tree where org_id = any ($1) and signed >= $2";
    eventually("both checkpoints", async || {
        let signed = sqlx::query_scalar(signed).bind(orgs).bind(size);
        let count: i64 = signed.fetch_one(&suite.pool).await.unwrap();
        (count == 2).then_some(())
    })
    .await;
}

/// Waits until a statement of the suite that contains a text waits for a lock.
async fn blocked(suite: &Suite, statement: &str) {
    eventually(&format!("the lock of {statement}"), async || {
        (suite.count_blocked(statement).await > 0).then_some(())
    })
    .await;
}

/// Two organizations whose trees are numbered against the order of their ids.
async fn organizations(suite: &Suite) -> [Uuid; 2] {
    let first = Uuid::from_u128(u128::MAX << 8);
    let second = Uuid::from_u128(1 << 8);
    append(suite, vec![event(first, 1)]).await;
    append(suite, vec![event(second, 1)]).await;
    // The signer locks no tree until the next entry.
    signed(suite, [first, second], 1).await;
    [first, second]
}

/// A batch locks existing trees by number, and creates missing ones by the id of the organization.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_locks_trees_in_one_order() {
    let suite = Suite::start().await;
    let [first, second] = organizations(&suite).await;
    let mut other = suite.pool.begin().await.unwrap();
    lock(&mut other, first).await;
    let batch = append(&suite, vec![event(second, 2), event(first, 2)]);
    let lock_in_order = async {
        blocked(&suite, "for update of tree").await;
        lock_free(&mut other, second).await;
        other.rollback().await.unwrap();
    };
    tokio::join!(batch, lock_in_order);

    let [first, second] = [2_u128, 3].map(|it| Uuid::from_u128(it << 8));
    let mut other = suite.pool.begin().await.unwrap();
    let create = "insert into audit.tree (org_id) values ($1)";
    sqlx::query(create).bind(first).execute(&mut *other).await.unwrap();
    let batch = append(&suite, vec![event(second, 1), event(first, 1)]);
    let lock_in_order = async {
        blocked(&suite, "insert into tree").await;
        sqlx::query(create).bind(second).execute(&mut *other).await.expect("no deadlock");
        other.rollback().await.unwrap();
    };
    tokio::join!(batch, lock_in_order);
    suite.stop_unchecked().await;
}

/// The signer locks the trees whose checkpoints it stores by number.
#[tokio::test(flavor = "multi_thread")]
async fn the_signer_locks_trees_in_the_order_of_appends() {
    let suite = Suite::start().await;
    let [first, second] = organizations(&suite).await;
    // Holds the signer while both trees grow.
    let mut holder = suite.pool.begin().await.unwrap();
    lock(&mut holder, Uuid::max()).await;
    append(&suite, vec![event(second, 2), event(first, 2)]).await;
    blocked(&suite, "for update of tree").await;
    let mut other = suite.pool.begin().await.unwrap();
    lock(&mut other, first).await;
    holder.rollback().await.unwrap();
    blocked(&suite, "select number, signed").await;
    lock_free(&mut other, second).await;
    other.rollback().await.unwrap();
    signed(&suite, [first, second], 2).await;
    suite.stop_unchecked().await;
}
