//! SQL statements about cosigned checkpoints of the suite tree.

use chassis::{Db, Result, Tx};
use sqlx::query;
use worker::queue::QueueState;

use super::CosignedCheckpoint;
use crate::db_int::{from_db_int, to_db_int};

/// Returns the newest cosigned checkpoint.
pub(crate) async fn newest(db: &Db) -> Result<Option<CosignedCheckpoint>> {
    let row = query!("select size, note, signed_at from cosigned order by size desc limit 1");
    let Some(row) = row.fetch_optional(db.pool()).await? else { return Ok(None) };
    Ok(Some(CosignedCheckpoint {
        size: from_db_int(row.size)?,
        note: row.note,
        cosigned_at: row.signed_at,
    }))
}

/// Stores a checkpoint with its cosignatures, and replaces the one of the same size.
pub(crate) async fn upsert(tx: &mut Tx, size: u64, note: &str) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into cosigned (size, note, signed_at) values ($1, $2, $3)
         on conflict (size) do update set note = excluded.note",
        to_db_int(size)?,
        note,
        now
    )
    .execute(tx.conn())
    .await?;
    // Wakes calls that wait for a checkpoint.
    tx.wake();
    Ok(())
}

/// Deletes the checkpoints that a larger one has replaced: only the newest is read.
pub(crate) async fn delete_replaced(tx: &mut Tx) -> Result<()> {
    query!("select delete_replaced_checkpoints()").fetch_one(tx.conn()).await?;
    Ok(())
}

/// Returns the state of the queue of signed heads that are not published, for operators.
pub(crate) async fn unpublished_heads(db: Db) -> Result<QueueState> {
    // Of all organizations (no org_id): only a number and a time.
    let state = query!(
        r#"select count(*) as "waiting!", min(signed_at) as oldest_at
           from (select signed_at from checkpoint
                 where index >= coalesce((select max(size) from cosigned), 0)
                 order by index limit 10000) as unpublished"#,
    );
    let state = state.fetch_one(db.pool()).await?;
    Ok(QueueState { waiting: state.waiting, oldest_at: state.oldest_at })
}
