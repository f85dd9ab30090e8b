//! SQL statements about the progress of exports. Each change of a leased sink requires its lease.

use chassis::{Result, Tx};
use sqlx::query;
use time::{Duration, Time, UtcOffset};
use uuid::Uuid;

use crate::export_sink::{
    part::{PART_ENTRIES_MAX, PartPlan},
    worker::LeasedSink,
};

/// Duration of a lease. It is renewed before each object.
const LEASE_SECONDS: f64 = 45.0;

/// Age of an entry after which it is exported, even if its part is not full.
const DELAY_MAX: Duration = Duration::minutes(15);

/// Pause after the first failed attempt; it doubles with each further one.
const BACK_OFF_MIN_SECONDS: f64 = 10.0;

/// Longest pause after failed attempts.
const BACK_OFF_MAX_SECONDS: f64 = 1800.0;

/// Leases sinks that have something to export: a part that is full, whose day has ended, or whose first entry
/// is old enough, or a checkpoint that is not written yet. No other process exports to them until they are
/// released or the lease ends.
pub(in crate::export_sink) async fn lease(
    tx: &mut Tx,
    lease: Uuid,
    limit: i64,
) -> Result<Vec<LeasedSink>> {
    let now = tx.now;
    let start_of_day = now.to_offset(UtcOffset::UTC).replace_time(Time::MIDNIGHT);
    let due_before = start_of_day.max(now - DELAY_MAX);
    // Of every organization (no org_id): the worker exports for all. The lease ends by the clock of the
    // database, because replicas have clocks of their own.
    let rows = query!(
        "update export_sink set lease = $1, leased_until = clock_timestamp() + make_interval(secs => $2)
         where (org_id, id) in (
             select sink.org_id, sink.id from export_sink as sink join tree on tree.org_id = sink.org_id
             where not paused and (leased_until is null or leased_until < clock_timestamp())
               and (next_attempt_at is null or next_attempt_at <= $3)
               and (next_index > checkpoint_size or (signed > next_index and (
                        part_end is not null or signed - next_index >= $4 or coalesce(
                            (select received_at from entry
                             where entry.tree = tree.number and entry.index = next_index) < $5,
                            true))))
             order by exported_at nulls first limit $6 for update of sink skip locked)
         returning org_id, id, storage_connection_id, prefix, ndjson, parquet, next_index, part_end,
             part_folder, checkpoint_size",
        lease,
        LEASE_SECONDS,
        now,
        PART_ENTRIES_MAX,
        due_before,
        limit
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    let part = |end: Option<i64>, folder: Option<String>| {
        end.zip(folder).map(|(end, folder)| PartPlan { end, folder })
    };
    let mut sinks = vec![];
    for it in rows {
        sinks.push(LeasedSink {
            org_id: it.org_id,
            id: it.id,
            lease,
            storage_connection_id: it.storage_connection_id,
            prefix: it.prefix,
            ndjson: it.ndjson,
            parquet: it.parquet,
            next_index: it.next_index,
            part: part(it.part_end, it.part_folder),
            checkpoint_size: it.checkpoint_size,
        });
    }
    Ok(sinks)
}

/// Renews a lease. False: the sink was paused or deleted, or another process has the lease.
pub(in crate::export_sink) async fn renew(tx: &mut Tx, sink: &LeasedSink) -> Result<bool> {
    let renewed = query!(
        "update export_sink set leased_until = clock_timestamp() + make_interval(secs => $4)
         where org_id = $1 and id = $2 and lease = $3 and not paused",
        sink.org_id.0,
        sink.id.0,
        sink.lease,
        LEASE_SECONDS
    );
    Ok(renewed.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Stores the part that is written next. False: as for [`renew`].
pub(in crate::export_sink) async fn set_part(
    tx: &mut Tx,
    sink: &LeasedSink,
    part: &PartPlan,
) -> Result<bool> {
    let stored = query!(
        "update export_sink set part_end = $4, part_folder = $5
         where org_id = $1 and id = $2 and lease = $3 and not paused",
        sink.org_id.0,
        sink.id.0,
        sink.lease,
        part.end,
        part.folder
    );
    Ok(stored.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Stores that a part is written. False: the sink was deleted, or another process has the lease.
pub(in crate::export_sink) async fn finish_part(
    tx: &mut Tx,
    sink: &LeasedSink,
    part: &PartPlan,
) -> Result<bool> {
    let now = tx.now;
    let stored = query!(
        "update export_sink set next_index = $4, part_end = null, part_folder = null, exported_at = $5,
             failures = 0, last_error = '', next_attempt_at = null
         where org_id = $1 and id = $2 and lease = $3",
        sink.org_id.0,
        sink.id.0,
        sink.lease,
        part.end,
        now
    );
    Ok(stored.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Stores that the checkpoint of all exported entries is written.
pub(in crate::export_sink) async fn finish_checkpoint(
    tx: &mut Tx,
    sink: &LeasedSink,
) -> Result<()> {
    let now = tx.now;
    query!(
        "update export_sink set checkpoint_size = next_index, exported_at = $4, failures = 0, last_error = '',
             next_attempt_at = null
         where org_id = $1 and id = $2 and lease = $3",
        sink.org_id.0,
        sink.id.0,
        sink.lease,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stores a failed attempt, and the time of the next one.
pub(in crate::export_sink) async fn record_failure(
    tx: &mut Tx,
    sink: &LeasedSink,
    error: &str,
) -> Result<()> {
    let now = tx.now;
    query!(
        "update export_sink set failures = failures + 1, last_error = $4,
             next_attempt_at = $5::timestamptz
                 + make_interval(secs => least($6 * 2 ^ least(failures, 20), $7))
         where org_id = $1 and id = $2 and lease = $3",
        sink.org_id.0,
        sink.id.0,
        sink.lease,
        error,
        now,
        BACK_OFF_MIN_SECONDS,
        BACK_OFF_MAX_SECONDS
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Ends a lease.
pub(in crate::export_sink) async fn release(tx: &mut Tx, sink: &LeasedSink) -> Result<()> {
    query!(
        "update export_sink set lease = null, leased_until = null
         where org_id = $1 and id = $2 and lease = $3",
        sink.org_id.0,
        sink.id.0,
        sink.lease
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
