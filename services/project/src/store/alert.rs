//! SQL statements about alerts.

use chassis::{Result, Tx};
use project_rules::alert::{Alert, Kind, MEMORY};
use sqlx::{query, query_as};
use time::Duration;
use uuid::Uuid;
use worker::retention::BATCH;

/// Largest number of alerts that are claimed at once.
const CLAIM_MAX: i64 = 20;

/// Time for which a process may report a claimed alert, and after which a failed report is repeated.
const CLAIM_DURATION: Duration = Duration::MINUTE;

/// Locks the alerts of environments and servers.
pub(crate) async fn lock(tx: &mut Tx, target_ids: &[Uuid]) -> Result<Vec<Alert>> {
    // Targets on the server of an authenticated runner, or silent servers (no org_id).
    let alerts = query_as!(
        Alert,
        "select target_id, target_name, org_id, project_id, kind, phase, since, open_count, value, version
         from alert where target_id = any ($1) order by target_id, kind for update",
        target_ids
    );
    Ok(alerts.fetch_all(tx.conn()).await?)
}

/// Stores an alert. With a new version it has to be reported.
pub(crate) async fn upsert(tx: &mut Tx, alert: &Alert) -> Result<()> {
    query!(
        "insert into alert (target_id, target_name, org_id, project_id, kind, phase, since, open_count,
             value, version, reported_version)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0)
         on conflict (target_id, kind) do update set target_name = excluded.target_name,
             phase = excluded.phase, since = excluded.since, open_count = excluded.open_count,
             value = excluded.value, version = excluded.version",
        alert.target_id,
        alert.target_name,
        alert.org_id as _,
        alert.project_id.map(|it| it.0),
        alert.kind as _,
        alert.phase as _,
        alert.since,
        alert.open_count,
        alert.value,
        alert.version,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Deletes an alert that never opened.
pub(crate) async fn delete(tx: &mut Tx, target_id: Uuid, kind: Kind) -> Result<()> {
    // The caller has locked the alert (no org_id).
    query!("delete from alert where target_id = $1 and kind = $2", target_id, kind as _)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Closes the alerts of an environment or a server that is deleted.
pub(crate) async fn close_of_target(tx: &mut Tx, target_id: Uuid) -> Result<()> {
    // The caller has locked the environment or the server (no org_id).
    query!(
        "update alert set version = version + (phase in ('open', 'closing'))::int, phase = 'closed',
             since = $2
         where target_id = $1",
        target_id,
        tx.now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Claims alerts with a change that is not reported, so that no other process reports them for a minute.
pub(crate) async fn claim_unreported(tx: &mut Tx) -> Result<Vec<Alert>> {
    // Alerts of all organizations (no org_id).
    let alerts = query_as!(
        Alert,
        "update alert set claimed_until = $1
         where (target_id, kind) in (
             select target_id, kind from alert
             where version <> reported_version and (claimed_until is null or claimed_until < $2)
             order by since limit $3 for update skip locked)
         returning target_id, target_name, org_id, project_id, kind, phase, since, open_count, value,
                   version",
        tx.now + CLAIM_DURATION,
        tx.now,
        CLAIM_MAX
    );
    Ok(alerts.fetch_all(tx.conn()).await?)
}

/// Records that the version of a claimed alert was reported.
pub(crate) async fn record_reported(tx: &mut Tx, alert: &Alert) -> Result<()> {
    query!(
        "update alert set claimed_until = null, reported_version = $4
         where org_id = $1 and target_id = $2 and kind = $3",
        alert.org_id as _,
        alert.target_id,
        alert.kind as _,
        alert.version,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Deletes alerts that closed more than a day ago, at most [`BATCH`]. Returns their number.
pub(crate) async fn delete_old(tx: &mut Tx) -> Result<u64> {
    // Alerts of all organizations (no org_id).
    let deleted = query!(
        "delete from alert where (target_id, kind) in (
             select target_id, kind from alert
             where phase = 'closed' and since < $1 and version = reported_version limit $2)",
        tx.now - MEMORY,
        BATCH
    );
    Ok(deleted.execute(tx.conn()).await?.rows_affected())
}
