//! SQL statements about the runs of the check. They concern the whole log, so no row has an organization.

use chassis::{Db, Result, Tx};
use sqlx::{query, query_as};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// Time without a sign of life after which the replica of a run counts as stopped.
pub(in crate::fsck) const LEASE: Duration = Duration::seconds(60);

/// Runs that are kept.
const KEPT_RUNS: i64 = 30;

/// A run of the check.
#[derive(Clone, Debug)]
pub(in crate::fsck) struct Run {
    pub(in crate::fsck) started_at: OffsetDateTime,
    /// Last sign of life of the replica that runs it.
    pub(in crate::fsck) seen_at: OffsetDateTime,
    /// `None` while the check runs.
    pub(in crate::fsck) ended_at: Option<OffsetDateTime>,
    pub(in crate::fsck) trees: i64,
    pub(in crate::fsck) entries: i64,
    pub(in crate::fsck) checkpoints: i64,
    pub(in crate::fsck) finding_count: i64,
    pub(in crate::fsck) findings: Vec<String>,
    /// Cause for which the check did not complete; empty if it did.
    pub(in crate::fsck) error: String,
}

/// Starts a run, unless one is running. Ends a run whose replica has stopped.
pub(in crate::fsck) async fn insert(tx: &mut Tx) -> Result<Option<Uuid>> {
    let now = tx.now;
    query!(
        "update fsck_run set ended_at = $1, error = 'the replica that ran it has stopped'
         where ended_at is null and seen_at < $2",
        now,
        now - LEASE
    )
    .execute(tx.conn())
    .await?;
    let id = chassis::id::new();
    let inserted = query!(
        "insert into fsck_run (id, started_at, seen_at) values ($1, $2, $2) on conflict do nothing",
        id,
        now
    );
    if inserted.execute(tx.conn()).await?.rows_affected() == 0 {
        return Ok(None);
    }
    query!(
        "delete from fsck_run
         where id not in (select id from fsck_run order by started_at desc, id desc limit $1)",
        KEPT_RUNS
    )
    .execute(tx.conn())
    .await?;
    Ok(Some(id))
}

/// Records that a run continues. Returns false if another replica has ended it.
pub(in crate::fsck) async fn record_progress(tx: &mut Tx, id: Uuid) -> Result<bool> {
    let now = tx.now;
    let updated =
        query!("update fsck_run set seen_at = $2 where id = $1 and ended_at is null", id, now);
    Ok(updated.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Result of a run.
#[derive(Default)]
pub(in crate::fsck) struct RunResult {
    pub(in crate::fsck) trees: i64,
    pub(in crate::fsck) entries: i64,
    pub(in crate::fsck) checkpoints: i64,
    pub(in crate::fsck) finding_count: i64,
    /// The first findings.
    pub(in crate::fsck) findings: Vec<String>,
    /// Cause for which the check did not complete; empty if it did.
    pub(in crate::fsck) error: String,
}

/// Stores the result of a run. No effect if another replica has ended it.
pub(in crate::fsck) async fn end(tx: &mut Tx, id: Uuid, result: &RunResult) -> Result<()> {
    let now = tx.now;
    query!(
        "update fsck_run set ended_at = $2, trees = $3, entries = $4, checkpoints = $5, finding_count = $6,
                findings = $7, error = $8
         where id = $1 and ended_at is null",
        id,
        now,
        result.trees,
        result.entries,
        result.checkpoints,
        result.finding_count,
        &result.findings,
        result.error,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns the runs, the newest one first.
pub(in crate::fsck) async fn list(db: &Db) -> Result<Vec<Run>> {
    let runs = query_as!(
        Run,
        "select started_at, seen_at, ended_at, trees, entries, checkpoints, finding_count, findings, error
         from fsck_run order by started_at desc, id desc limit $1",
        KEPT_RUNS
    );
    Ok(runs.fetch_all(db.pool()).await?)
}
