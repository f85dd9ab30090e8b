//! Dead letters: events whose reaction has failed too often, until an operator replays or discards them.

use chassis::{Db, Result, Tx};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::delivery::Delivery;

/// A dead letter, as it is listed.
pub struct DeadLetter {
    /// Id of the event.
    pub event_id: Uuid,
    /// Type of the event.
    pub event_type: String,
    /// Error of the last attempt.
    pub error: String,
    /// Time of the last attempt.
    pub failed_at: OffsetDateTime,
    /// Encoded envelope of the event.
    pub envelope: Vec<u8>,
}

/// Lists at most `limit` dead letters of a service, the oldest one first.
pub async fn list(db: &Db, limit: i64) -> Result<Vec<DeadLetter>> {
    let letters = query_as!(
        DeadLetter,
        r#"select event_id, type as "event_type!", error, died_at as "failed_at!", envelope
           from dead_letter order by died_at, event_id limit $1"#,
        limit
    );
    Ok(letters.fetch_all(db.pool()).await?)
}

/// Makes a dead letter a deferred event that is due, with new attempts. Returns false if there is none with
/// this id.
pub async fn replay(db: &Db, event_id: Uuid) -> Result<bool> {
    let replay = async |tx: &mut Tx| {
        let Some(event) = take(tx, event_id).await? else { return Ok(false) };
        query!("delete from inbox where event_id = $1", event_id).execute(tx.conn()).await?;
        let group = event.org_id.unwrap_or_else(|| event.object_id());
        let now = tx.now;
        query!(
            "insert into deferred_event
                 (event_id, group_id, source, type, org_id, envelope, attempts, due_at)
             values ($1, $2, $3, $4, $5, $6, 0, $7) on conflict (event_id) do nothing",
            event.id,
            group,
            event.source,
            event.event_type,
            event.org_id,
            event.envelope,
            now,
        )
        .execute(tx.conn())
        .await?;
        Ok(true)
    };
    db.write_as_system("dead letters", replay).await
}

/// Deletes a dead letter. Returns false if there is none with this id.
pub async fn discard(db: &Db, event_id: Uuid) -> Result<bool> {
    let discard = async |tx: &mut Tx| Ok(take(tx, event_id).await?.is_some());
    db.write_as_system("dead letters", discard).await
}

/// Deletes a dead letter and returns its event.
async fn take(tx: &mut Tx, event_id: Uuid) -> Result<Option<Delivery>> {
    let envelope =
        query_scalar!("delete from dead_letter where event_id = $1 returning envelope", event_id);
    let Some(envelope) = envelope.fetch_optional(tx.conn()).await? else { return Ok(None) };
    Ok(Some(Delivery::stored(event_id, envelope)))
}
