//! Overlapping transactions: their events reach the log in every order of commits.

use api::event;
use prost::Message;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use testkit::{Suite, eventually};
use uuid::Uuid;

/// Begins a transaction with an assigned transaction id, like one that has changed a row.
pub(crate) async fn begin(pool: &PgPool) -> Transaction<'static, Postgres> {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id()").execute(&mut *tx).await.unwrap();
    tx
}

/// Writes an event to the outbox of identity; returns its id.
pub(crate) async fn write_event(connection: &mut PgConnection) -> Uuid {
    let id = chassis::id::new();
    let event = prost_types::Any {
        type_url: "/tenantry.identity.v1.UserLoginFailed".to_owned(),
        value: vec![],
    };
    let envelope = event::Envelope {
        id: id.to_string(),
        source: "identity".to_owned(),
        event: Some(event),
        ..Default::default()
    };
    let insert = "insert into identity.outbox (id, type, envelope) values ($1, $2, $3)";
    sqlx::query(insert)
        .bind(id)
        .bind("tenantry.identity.v1.UserLoginFailed")
        .bind(envelope.encode_to_vec())
        .execute(connection)
        .await
        .unwrap();
    id
}

/// Waits until an event is in the log.
pub(crate) async fn wait_for_entry(suite: &Suite, id: Uuid) {
    eventually("an event in the log", async || {
        let is_logged = "select exists (select from audit.entry where event_id = $1)";
        let is_logged: bool =
            sqlx::query_scalar(is_logged).bind(id).fetch_one(&suite.pool).await.unwrap();
        is_logged.then_some(())
    })
    .await;
}

/// The younger of two transactions writes first, so its event has the lower position. The older one commits
/// first, and its event is read. The reader must still read the lower position later.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_younger_transaction_that_wrote_first_is_not_lost() {
    let suite = Suite::start().await;
    for _ in 0..5 {
        let mut older = begin(&suite.pool).await;
        let mut younger = begin(&suite.pool).await;
        let first = write_event(&mut younger).await;
        let second = write_event(&mut older).await;
        older.commit().await.unwrap();
        wait_for_entry(&suite, second).await;
        younger.commit().await.unwrap();
        wait_for_entry(&suite, first).await;
    }
    suite.finish().await;
}

/// Three overlapping transactions: B, C and A write in this order; A, C and B commit in this order.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_overlapping_transactions_are_logged_once() {
    let suite = Suite::start().await;
    let mut a = begin(&suite.pool).await;
    let mut b = begin(&suite.pool).await;
    let mut c = begin(&suite.pool).await;
    let event_b = write_event(&mut b).await;
    let event_c = write_event(&mut c).await;
    let event_a = write_event(&mut a).await;
    a.commit().await.unwrap();
    wait_for_entry(&suite, event_a).await;
    c.commit().await.unwrap();
    b.commit().await.unwrap();
    wait_for_entry(&suite, event_b).await;
    wait_for_entry(&suite, event_c).await;
    suite.finish().await;
}
