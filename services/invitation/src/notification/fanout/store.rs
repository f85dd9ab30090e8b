//! Every SQL statement about events that wait for their fan-out.

use chassis::{Db, Result, Tx, id};
use sqlx::{query, query_as};
use uuid::Uuid;
use worker::queue::{COUNT_MAX, QueueState};

/// An event that waits for its fan-out.
pub(super) struct PendingEvent {
    pub(super) event_id: Uuid,
    /// Event with its metadata: the message `Envelope`, encoded as protobuf.
    pub(super) envelope: Vec<u8>,
    /// Number of attempts, this one included.
    pub(super) attempts: i32,
}

/// Stores an event. A second delivery of the same event changes nothing.
pub(super) async fn insert(tx: &mut Tx, event_id: Uuid, envelope: &[u8]) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into pending_event (event_id, envelope, due_at) values ($1, $2, $3) on conflict do nothing",
        event_id,
        envelope,
        now
    )
    .execute(tx.conn())
    .await?;
    // The commit wakes the fan-out worker.
    tx.wake();
    Ok(())
}

/// Claims events that are due: each is due again after 5 seconds, and after twice as long with each further
/// attempt (at most 5 s × 2⁸, 21 minutes), unless it is deleted before.
pub(super) async fn claim(tx: &mut Tx, limit: i64) -> Result<Vec<PendingEvent>> {
    let now = tx.now;
    let events = query_as!(
        PendingEvent,
        "update pending_event set attempts = attempts + 1,
             due_at = $1 + interval '5 seconds' * power(2, least(attempts, 8))
         where event_id in (select event_id from pending_event where due_at <= $1
                            order by due_at limit $2 for update skip locked)
         returning event_id, envelope, attempts",
        now,
        limit
    );
    Ok(events.fetch_all(tx.conn()).await?)
}

/// Returns the state of the queue, for operators. An entry counts from its event, so that one whose attempts
/// fail grows old although its next attempt is due later.
pub(crate) async fn queue(db: Db) -> Result<QueueState> {
    let state = query!(
        r#"with waiting as (select event_id from pending_event order by event_id limit $1)
           select count(*) as "waiting!",
                  (select event_id from waiting order by event_id limit 1) as oldest
           from waiting"#,
        COUNT_MAX
    );
    let state = state.fetch_one(db.pool()).await?;
    Ok(QueueState { waiting: state.waiting, oldest_at: state.oldest.and_then(id::created_at) })
}

/// Deletes a delivered event. Returns false if it does not exist: this claim took so long that the event was
/// due again, and another worker has claimed, delivered and deleted it.
pub(super) async fn delete(tx: &mut Tx, event_id: Uuid) -> Result<bool> {
    let deleted = query!("delete from pending_event where event_id = $1", event_id);
    Ok(deleted.execute(tx.conn()).await?.rows_affected() == 1)
}
