//! SQL statements about registered uses of storage connections.

use chassis::{Db, OrgId, Result, Tx};
use sqlx::{query, query_as};

use crate::export_sink::{ExportSinkId, storage::StorageUse};

/// Time that the creation of a sink may take. The registration of a sink that does not exist then is left
/// over.
const CREATION_MINUTES: f64 = 10.0;

/// Registrations that one run of the job removes.
const BATCH: i64 = 50;

/// Stores that a use may be registered from now on.
pub(in crate::export_sink) async fn insert(tx: &mut Tx, storage_use: &StorageUse) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into export_storage_use (org_id, sink_id, created_at) values ($1, $2, $3)
         on conflict do nothing",
        storage_use.org_id.0,
        storage_use.sink_id.0,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Locks a use, so that it is not removed before its sink is stored. False: it was removed.
pub(in crate::export_sink) async fn lock(
    tx: &mut Tx,
    org_id: OrgId,
    id: ExportSinkId,
) -> Result<bool> {
    let row = query!(
        "select created_at from export_storage_use where org_id = $1 and sink_id = $2 for update",
        org_id.0,
        id.0
    );
    Ok(row.fetch_optional(tx.conn()).await?.is_some())
}

/// Deletes a use whose registration was removed.
pub(in crate::export_sink) async fn delete(
    tx: &mut Tx,
    org_id: OrgId,
    id: ExportSinkId,
) -> Result<()> {
    query!("delete from export_storage_use where org_id = $1 and sink_id = $2", org_id.0, id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Registration without a sink.
pub(in crate::export_sink) struct LeftOver {
    pub(in crate::export_sink) org_id: OrgId,
    pub(in crate::export_sink) sink_id: ExportSinkId,
}

/// Returns registrations whose sink was deleted, or not created in time.
pub(in crate::export_sink) async fn left_over(db: &Db) -> Result<Vec<LeftOver>> {
    // Of every organization (no org_id): the job works for all.
    let rows = query_as!(
        LeftOver,
        "select org_id, sink_id from export_storage_use as registered
         where created_at < $1::timestamptz - make_interval(mins => 1) * $2 and not exists (
             select from export_sink
             where export_sink.org_id = registered.org_id and export_sink.id = registered.sink_id)
         order by created_at limit $3",
        db.now(),
        CREATION_MINUTES,
        BATCH
    );
    Ok(rows.fetch_all(db.pool()).await?)
}
