//! Queues of events in the database of a service.

use chassis::{Db, Result, id};
use sqlx::query;
use worker::queue::{COUNT_MAX, Queue, QueueState};

use crate::cursor::ReaderPositions;

/// Returns the queues of a database: events that a reader has not read, those that are deferred, and dead
/// letters.
pub(crate) fn of(db: &Db, positions: ReaderPositions) -> [Queue; 3] {
    [
        Queue::new("outbox", db, move |db| outbox(db, positions.clone())),
        Queue::new("deferred_event", db, deferred_events),
        Queue::new("dead_letter", db, dead_letters),
    ]
}

/// Events after the position of the reader that is furthest behind.
async fn outbox(db: Db, positions: ReaderPositions) -> Result<QueueState> {
    let read = positions.lowest();
    let state = query!(
        r#"with unread as (
               select id, written_by, position from outbox
               where (written_by, position) > ($1::bigint::text::xid8, $2::bigint)
               order by written_by, position limit $3
           )
           select (select count(*) from unread) as "waiting!",
                  (select id from unread order by written_by, position limit 1) as oldest"#,
        read.horizon(),
        read.position(),
        COUNT_MAX,
    );
    let state = state.fetch_one(db.pool()).await?;
    Ok(QueueState { waiting: state.waiting, oldest_at: state.oldest.and_then(id::created_at) })
}

async fn deferred_events(db: Db) -> Result<QueueState> {
    let state = query!(
        r#"select (select count(*) from (select from deferred_event limit $1) as counted) as "waiting!",
                  (select event_id from deferred_event order by number limit 1) as oldest"#,
        COUNT_MAX
    );
    let state = state.fetch_one(db.pool()).await?;
    Ok(QueueState { waiting: state.waiting, oldest_at: state.oldest.and_then(id::created_at) })
}

async fn dead_letters(db: Db) -> Result<QueueState> {
    let state = query!(
        r#"select (select count(*) from (select from dead_letter limit $1) as counted) as "waiting!",
                  (select min(died_at) from dead_letter) as oldest_at"#,
        COUNT_MAX
    );
    let state = state.fetch_one(db.pool()).await?;
    Ok(QueueState { waiting: state.waiting, oldest_at: state.oldest_at })
}
