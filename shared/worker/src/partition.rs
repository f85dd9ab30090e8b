//! Partitions of tables that grow with time, by the time in the identifiers of their rows (UUIDv7). The
//! retention job creates them in advance, and drops them when all their rows are old. The functions that it
//! calls are in a migration of the chassis.

use chassis::{Db, Result, Tx, id};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::retention::BATCH;

/// Time before which a partition is created. Rows for which there is no partition are in `<table>_default`,
/// also those of a time in which the job did not run.
const AHEAD: Duration = Duration::days(14);

/// A table that a migration has partitioned (`partition_table`).
#[derive(Clone, Copy, Debug)]
pub struct PartitionedTable {
    /// Name of the table.
    pub name: &'static str,
    /// Time of a partition. Rows are deleted when their whole partition is older than the retention.
    pub interval: Duration,
    /// Shortest time after which rows are deleted.
    pub retention: Duration,
    /// Column with a time after which the retention begins, if that can be later than the time in the
    /// identifier. A partition with such a row is kept.
    pub age_column: Option<&'static str>,
}

/// Creates the partitions that are needed next, and deletes old rows.
pub(crate) async fn maintain(db: &Db, table: &PartitionedTable) -> Result<()> {
    let step = async |tx: &mut Tx| {
        create(tx, table).await?;
        Ok(drop_oldest(tx, table).await? || delete_unpartitioned(tx, table).await? > 0)
    };
    while db.write_as_system("retention", step).await? {}
    Ok(())
}

async fn create(tx: &mut Tx, table: &PartitionedTable) -> Result<()> {
    let end = sqlx::query_scalar!("select partition_end($1)", table.name);
    let end = end.fetch_one(tx.conn()).await?;
    let mut start = end.and_then(time_of).unwrap_or(tx.now);
    while start < tx.now + AHEAD {
        let next = start + table.interval;
        let created = sqlx::query_scalar!(
            r#"select create_partition($1, $2, $3, $4) as "created!""#,
            table.name,
            partition_name(table.name, start),
            id::lower_bound(start),
            id::lower_bound(next),
        );
        if created.fetch_one(tx.conn()).await? {
            tracing::debug!(table = table.name, %start, "partition created");
        }
        start = next;
    }
    Ok(())
}

/// Returns false if there is no partition to drop, or if the table is in use.
async fn drop_oldest(tx: &mut Tx, table: &PartitionedTable) -> Result<bool> {
    let before = tx.now - table.retention;
    let dropped = sqlx::query_scalar!(
        r#"select drop_partition($1, $2, $3, $4) as "dropped!""#,
        table.name,
        id::lower_bound(before),
        table.age_column,
        before,
    );
    let dropped = dropped.fetch_one(tx.conn()).await?;
    if dropped {
        tracing::info!(table = table.name, %before, "partition with old rows dropped");
    }
    Ok(dropped)
}

/// Deletes old rows that are in no partition of an interval, at most [`BATCH`]. Returns their number.
async fn delete_unpartitioned(tx: &mut Tx, table: &PartitionedTable) -> Result<i64> {
    let before = tx.now - table.retention;
    let deleted = sqlx::query_scalar!(
        r#"select delete_unpartitioned($1, $2, $3, $4, $5) as "deleted!""#,
        table.name,
        id::lower_bound(before),
        table.age_column,
        before,
        BATCH,
    );
    Ok(deleted.fetch_one(tx.conn()).await?)
}

/// Name of the partition that begins at a time.
fn partition_name(table: &str, start: OffsetDateTime) -> String {
    let date = start.date();
    format!("{table}_{}{:02}{:02}", date.year(), u8::from(date.month()), date.day())
}

/// Time in a `UUIDv7`, to the millisecond.
fn time_of(id: Uuid) -> Option<OffsetDateTime> {
    let bytes = id.as_bytes();
    let mut milliseconds = [0; 8];
    milliseconds[2..].copy_from_slice(&bytes[..6]);
    let nanoseconds = i128::from(u64::from_be_bytes(milliseconds)) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_an_identifier_is_that_of_its_lower_bound() {
        let start = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        assert_eq!(time_of(id::lower_bound(start)), Some(start));
        assert_eq!(partition_name("inbox", start), "inbox_20270115");
    }
}
