//! Every SQL statement about events that wait to be told.

use chassis::{Result, Tx};
use sqlx::query;
use uuid::Uuid;

/// An event that waits.
pub(crate) struct News {
    pub(crate) event_id: Uuid,
    pub(crate) envelope: Vec<u8>,
    pub(crate) attempts: i32,
}

/// Keeps an event.
pub(crate) async fn keep(tx: &mut Tx, event_id: Uuid, envelope: &[u8]) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into news (event_id, envelope, due_at) values ($1, $2, $3) on conflict do nothing",
        event_id,
        envelope,
        now
    )
    .execute(tx.conn())
    .await?;
    tx.wake();
    Ok(())
}

/// Takes what is due, and keeps others from taking it for a while.
pub(crate) async fn take(tx: &mut Tx, limit: i64) -> Result<Vec<News>> {
    let now = tx.now;
    let news = sqlx::query_as!(
        News,
        "update news set attempts = attempts + 1,
             due_at = $1 + interval '5 seconds' * power(2, least(attempts, 8))
         where event_id in (select event_id from news where due_at <= $1
                            order by due_at limit $2 for update skip locked)
         returning event_id, envelope, attempts",
        now,
        limit
    );
    Ok(news.fetch_all(tx.conn()).await?)
}

/// An event is told in this transaction. Answers whether it was not told before: another editor may have
/// taken it when this one was slow.
pub(crate) async fn told(tx: &mut Tx, event_id: Uuid) -> Result<bool> {
    let gone = query!("delete from news where event_id = $1", event_id).execute(tx.conn()).await?;
    Ok(gone.rows_affected() == 1)
}
