//! Partitions of tables that grow with time, by the time in the identifiers of their rows (UUIDv7). The
//! retention job creates them in advance, and drops them when all their rows are old. The functions that it
//! calls are in a migration of the chassis.

use chassis::{Db, Result, Tx, id};
use time::{Duration, OffsetDateTime};

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

/// Creates the partitions that are needed next, and deletes old rows. Each partition is created and dropped
/// in a transaction of its own: a query locks the table and then its partitions, so a transaction that has
/// locked a partition and waits for the table would end in a deadlock with it.
pub(crate) async fn maintain(db: &Db, table: &PartitionedTable) -> Result<()> {
    let starts = db.write_as_system("retention", async |tx: &mut Tx| starts(tx, table).await);
    let mut starts = starts.await?;
    while starts.next < starts.until {
        let create = async |tx: &mut Tx| create(tx, table, starts.next).await;
        db.write_as_system("retention", create).await?;
        starts.next += table.interval;
    }
    let drop_oldest = async |tx: &mut Tx| drop_oldest(tx, table).await;
    while db.write_as_system("retention", drop_oldest).await? {}
    let delete = async |tx: &mut Tx| delete_unpartitioned(tx, table).await;
    while db.write_as_system("retention", delete).await? > 0 {}
    Ok(())
}

/// Begins of the partitions that are needed.
struct Starts {
    next: OffsetDateTime,
    until: OffsetDateTime,
}

async fn starts(tx: &mut Tx, table: &PartitionedTable) -> Result<Starts> {
    let end = sqlx::query_scalar!("select partition_end($1)", table.name);
    let end = end.fetch_one(tx.conn()).await?;
    Ok(Starts { next: end.and_then(id::time_of).unwrap_or(tx.now), until: tx.now + AHEAD })
}

async fn create(tx: &mut Tx, table: &PartitionedTable, start: OffsetDateTime) -> Result<()> {
    let created = sqlx::query_scalar!(
        r#"select create_partition($1, $2, $3, $4) as "created!""#,
        table.name,
        partition_name(table.name, start),
        id::lower_bound(start),
        id::lower_bound(start + table.interval),
    );
    if created.fetch_one(tx.conn()).await? {
        tracing::debug!(table = table.name, %start, "partition created");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_an_identifier_is_that_of_its_lower_bound() {
        let start = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        assert_eq!(id::time_of(id::lower_bound(start)), Some(start));
        assert_eq!(partition_name("inbox", start), "inbox_20270115");
    }
}
