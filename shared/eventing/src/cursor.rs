//! Reading of an outbox: every event at least once, and the events of one object in commit order.
//!
//! The position of a reader is a horizon (a transaction id, below which all transactions have ended and all
//! events are read) and, among the events of the transaction `horizon`, a position. Events of transactions
//! that may still be running are not read yet. Neither are events with a higher position than one of those:
//! transactions that changed the same row took their positions while they held its lock, so their events must
//! be read in order of position.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use chassis::{Db, Result};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::delivery::Delivery;

/// Position of a reader in an outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cursor {
    /// Transaction id below which all events are read.
    horizon: i64,
    /// Position up to which the events of the transaction `horizon` are read.
    position: i64,
}

/// Number of rows beyond a batch that are searched for a lower position. Larger than the number of events
/// that transactions write at the same time.
const LOOKAHEAD: i64 = 1_000;

/// Reads at most `limit` events after a position, oldest first. Returns them with the position after them.
pub(crate) async fn read(db: &Db, from: Cursor, limit: i64) -> Result<(Vec<Delivery>, Cursor)> {
    if db.faults().skip_running_transactions {
        return read_by_position(db, from, limit).await;
    }
    let rows = sqlx::query!(
        r#"with horizon as (select pg_snapshot_xmin(pg_current_snapshot()) as oldest),
                -- The next ones by transaction, which the index gives without looking at any other row.
                near as materialized (
                    select position, id, type, org_id, envelope, written_by
                    from outbox, horizon
                    where (written_by, position) > ($1::bigint::text::xid8, $2::bigint)
                      and written_by < oldest
                    order by written_by, position limit $4
                ),
                -- The first that is left for later. The sum keeps the planner from walking the table.
                later as (
                    select min(position + 0) as position from outbox, horizon where written_by >= oldest
                ),
                ready as (
                    select near.position, id, type, org_id, envelope from near, later
                    where near.position < coalesce(later.position, near.position + 1)
                    order by near.position limit $3
                )
           select ready.position as "position?", id as "id?", type as "type?", org_id,
                  envelope as "envelope?",
                  -- The oldest transaction that still has a row to read.
                  (select min(written_by::text::bigint) from near
                   where position > (select max(position) from ready)) as unread,
                  oldest::text::bigint as "oldest!"
           from horizon left join ready on true
           order by ready.position"#,
        from.horizon,
        from.position,
        limit,
        limit + LOOKAHEAD,
    )
    .fetch_all(db.pool())
    .await?;
    let mut cursor = from;
    let mut deliveries = vec![];
    for row in rows {
        let (Some(id), Some(event_type), Some(envelope)) = (row.id, row.r#type, row.envelope)
        else {
            break;
        };
        cursor = match row.unread {
            Some(horizon) => Cursor { horizon, position: row.position.unwrap_or_default() },
            // All events of ended transactions are read, none of the oldest running transaction.
            None => Cursor { horizon: row.oldest, position: 0 },
        };
        let source = db.name().to_owned();
        deliveries.push(Delivery { id, source, event_type, org_id: row.org_id, envelope });
    }
    Ok((deliveries, cursor))
}

impl Cursor {
    /// Transaction id below which all events are read.
    pub(crate) fn horizon(self) -> i64 {
        self.horizon
    }

    /// Position up to which the events of the transaction at the horizon are read.
    pub(crate) fn position(self) -> i64 {
        self.position
    }

    /// Loads the position of a reader in the outbox of `source` from the reader's schema; the start if there
    /// is none.
    pub(crate) async fn load(conn: &mut PgConnection, reader: &str, source: &str) -> Result<Self> {
        let row = sqlx::query!(
            r#"select horizon::text::bigint as "horizon!", position from outbox_cursor
           where reader = $1 and source = $2"#,
            reader,
            source
        )
        .fetch_optional(conn)
        .await?;
        let cursor = row.map(|it| Self { horizon: it.horizon, position: it.position });
        Ok(cursor.unwrap_or_default())
    }

    /// Saves the position of a reader.
    pub(crate) async fn save(
        self,
        conn: &mut PgConnection,
        reader: &str,
        source: &str,
    ) -> Result<()> {
        sqlx::query!(
            "insert into outbox_cursor (reader, source, horizon, position)
         values ($1, $2, $3::bigint::text::xid8, $4)
         on conflict (reader, source) do update set horizon = excluded.horizon, position = excluded.position",
            reader,
            source,
            self.horizon,
            self.position,
        )
        .execute(conn)
        .await?;
        Ok(())
    }
}

/// Positions of all readers of an outbox in this process. Events before the lowest one are read by all of
/// them.
#[derive(Clone, Default)]
pub(crate) struct ReaderPositions(Arc<Mutex<BTreeMap<String, Cursor>>>);

impl ReaderPositions {
    /// Sets the position of a reader.
    pub(crate) fn set(&self, reader: &str, cursor: Cursor) {
        let mut positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        positions.insert(reader.to_owned(), cursor);
    }

    /// Returns the lowest position.
    pub(crate) fn lowest(&self) -> Cursor {
        let positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        positions.values().min().copied().unwrap_or_default()
    }
}

/// Largest number of events that [`delete_read`] deletes.
pub(crate) const DELETE_BATCH: u64 = 500;

/// Deletes the oldest events up to the position `read` whose ids are below `before`; returns their number.
pub(crate) async fn delete_read(
    conn: &mut PgConnection,
    read: Cursor,
    before: Uuid,
) -> Result<u64> {
    let deleted = sqlx::query!(
        "delete from outbox where position in (
             select position from outbox
             where (written_by, position) <= ($1::bigint::text::xid8, $2::bigint) and id < $3
             order by written_by, position limit 500)",
        read.horizon,
        read.position,
        before,
    )
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected())
}

/// Injected fault: reads by position only. It loses events of transactions that commit late.
async fn read_by_position(db: &Db, from: Cursor, limit: i64) -> Result<(Vec<Delivery>, Cursor)> {
    let rows = sqlx::query!(
        "select position, id, type, org_id, envelope from outbox where position > $1
         order by position limit $2",
        from.position,
        limit
    );
    let rows = rows.fetch_all(db.pool()).await?;
    let position = rows.last().map_or(from.position, |it| it.position);
    let deliveries = rows.into_iter().map(|row| Delivery {
        id: row.id,
        source: db.name().to_owned(),
        event_type: row.r#type,
        org_id: row.org_id,
        envelope: row.envelope,
    });
    Ok((deliveries.collect(), Cursor { horizon: from.horizon, position }))
}
