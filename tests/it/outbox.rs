//! Transactions that overlap in every order: none of their events is lost on the way to the log.

use api::event;
use prost::Message;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use testkit::{Suite, eventually};
use uuid::Uuid;

/// Begins a transaction that has its number already, as if it had changed something.
pub(crate) async fn begin(pool: &PgPool) -> Transaction<'static, Postgres> {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id()").execute(&mut *tx).await.unwrap();
    tx
}

/// Writes an event; answers its id.
pub(crate) async fn write(connection: &mut PgConnection) -> Uuid {
    let id = chassis::id::new();
    let told = prost_types::Any {
        type_url: "/tenantry.identity.v1.LoginFailed".to_owned(),
        value: vec![],
    };
    let envelope = event::Envelope {
        id: id.to_string(),
        source: "identity".to_owned(),
        event: Some(told),
        ..Default::default()
    };
    let insert = "insert into identity.outbox (id, type, envelope) values ($1, $2, $3)";
    sqlx::query(insert)
        .bind(id)
        .bind("tenantry.identity.v1.LoginFailed")
        .bind(envelope.encode_to_vec())
        .execute(connection)
        .await
        .unwrap();
    id
}

pub(crate) async fn logged(suite: &Suite, id: Uuid) {
    eventually("an event in the log", async || {
        let there = "select exists (select from audit.entry where event_id = $1)";
        let there: bool = sqlx::query_scalar(there).bind(id).fetch_one(&suite.pool).await.unwrap();
        there.then_some(())
    })
    .await;
}

/// The older transaction commits while the younger one, which has written before it, still runs: the reader
/// passes over the younger one's place and must come back to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_younger_transaction_that_wrote_first_is_not_lost() {
    let suite = Suite::start().await;
    for _ in 0..5 {
        let mut older = begin(&suite.pool).await;
        let mut younger = begin(&suite.pool).await;
        let first = write(&mut younger).await;
        let second = write(&mut older).await;
        older.commit().await.unwrap();
        logged(&suite, second).await;
        younger.commit().await.unwrap();
        logged(&suite, first).await;
    }
    suite.finish().await;
}

/// Three that overlap, and the one that wrote in the middle commits last.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_commits_last_is_logged_last_and_once() {
    let suite = Suite::start().await;
    let (mut a, mut b, mut c) =
        (begin(&suite.pool).await, begin(&suite.pool).await, begin(&suite.pool).await);
    let (of_b, of_c, of_a) = (write(&mut b).await, write(&mut c).await, write(&mut a).await);
    a.commit().await.unwrap();
    logged(&suite, of_a).await;
    c.commit().await.unwrap();
    b.commit().await.unwrap();
    logged(&suite, of_b).await;
    logged(&suite, of_c).await;
    suite.finish().await;
}
