//! Every SQL statement about alerts.

use chassis::{Changed, Db, OrgId, Result, Tx};
use sqlx::{query, query_as};
use uuid::Uuid;

use super::{Alert, Report};

/// Locks the open alert of the report's kind and target. Until the transaction ends, no other transaction
/// opens one.
pub(crate) async fn lock_open(tx: &mut Tx, report: &Report) -> Result<Option<Alert>> {
    let kind = i32::from(report.kind);
    let key = format!("{} {kind} {}", report.org_id, report.target);
    // The seed of the hash (4) differs from those of other locks, so that equal keys do not collide.
    query!("select pg_advisory_xact_lock(hashtextextended($1, 4))", key)
        .fetch_one(tx.conn())
        .await?;
    let alert = query_as!(
        Alert,
        "select id, org_id, project_id, kind, target, target_name, severity, value, opened_at, updated_at,
                closed_at
         from alert where org_id = $1 and kind = $2 and target = $3 and closed_at is null for update",
        report.org_id.0,
        kind,
        report.target,
    );
    Ok(alert.fetch_optional(tx.conn()).await?)
}

/// Stores a new alert and its event.
pub(crate) async fn insert(tx: &mut Tx, opened: Changed<Alert>) -> Result<Alert> {
    let alert = opened.state();
    query!(
        "insert into alert (id, org_id, project_id, kind, target, target_name, severity, value, opened_at,
             updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        alert.id,
        alert.org_id as _,
        alert.project_id.map(|it| it.0),
        alert.kind as _,
        alert.target,
        alert.target_name,
        alert.severity as _,
        alert.value,
        alert.opened_at,
        alert.updated_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(opened))
}

/// Stores the new state of an alert. The caller emits the event, if the change has one.
pub(crate) async fn update(tx: &mut Tx, alert: &Alert) -> Result<()> {
    query!(
        "update alert set severity = $3, value = $4, updated_at = $5, closed_at = $6
         where org_id = $1 and id = $2",
        alert.org_id as _,
        alert.id,
        alert.severity as _,
        alert.value,
        alert.updated_at,
        alert.closed_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Open alerts of an organization and of all its projects, newest first: at most `limit` of them, with
/// `before` only older ones.
pub(crate) async fn list(
    db: &Db,
    org_id: OrgId,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Alert>> {
    let rows = query_as!(
        Alert,
        "select id, org_id, project_id, kind, target, target_name, severity, value, opened_at, updated_at,
                closed_at
         from alert
         where org_id = $1 and closed_at is null
           and id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
         order by id desc limit $3",
        org_id.0,
        before,
        limit,
    );
    Ok(rows.fetch_all(db.pool()).await?)
}
