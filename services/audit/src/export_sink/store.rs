//! SQL statements about sinks.

pub(super) mod progress;
pub(super) mod storage_use;

use chassis::{Changed, Db, Error, OrgId, Result, Tx, page::Page};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{ExportSink, ExportSinkId};

/// Selects sinks: the rest of the statement after `from export_sink`, and its arguments.
macro_rules! export_sinks {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            ExportSink,
            "select id, org_id, name, storage_connection_id, prefix, ndjson, parquet, paused, version,
                    creator_id, created_at, updated_at, next_index, checkpoint_size, exported_at, failures,
                    last_error, next_attempt_at
             from export_sink " + $rest
            $(, $argument)*
        )
    };
}

/// Returns a sink.
pub(super) async fn get(db: &Db, org_id: OrgId, id: ExportSinkId) -> Result<ExportSink> {
    let sink = export_sinks!("where org_id = $1 and id = $2", org_id.0, id.0);
    sink.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(ExportSinkId::NOUN))
}

/// Locks a sink.
pub(super) async fn lock(tx: &mut Tx, org_id: OrgId, id: ExportSinkId) -> Result<ExportSink> {
    let sink = export_sinks!("where org_id = $1 and id = $2 for update", org_id.0, id.0);
    sink.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(ExportSinkId::NOUN))
}

/// Returns a page of the sinks of an organization, oldest first.
pub(super) async fn list(db: &Db, org_id: OrgId, page: &Page) -> Result<Vec<ExportSink>> {
    let sinks = export_sinks!(
        "where org_id = $1 and id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
         order by id limit $3",
        org_id.0,
        page.after::<Uuid>()?,
        page.limit()
    );
    Ok(sinks.fetch_all(db.pool()).await?)
}

/// Counts the sinks of an organization. Other calls of this function for it wait until the transaction ends.
pub(super) async fn lock_and_count(tx: &mut Tx, org_id: OrgId) -> Result<i64> {
    // The second argument separates the advisory locks of the services.
    query!("select pg_advisory_xact_lock(hashtextextended($1, 31))", org_id.to_string())
        .fetch_one(tx.conn())
        .await?;
    let count = query_scalar!(
        r#"select count(*) as "count!" from export_sink where org_id = $1"#,
        org_id.0
    );
    Ok(count.fetch_one(tx.conn()).await?)
}

/// True if a sink of the organization with the same connection has a prefix. The caller has called
/// [`lock_and_count`].
pub(super) async fn is_prefix_used(tx: &mut Tx, sink: &ExportSink) -> Result<bool> {
    let is_used = query_scalar!(
        r#"select exists (
               select from export_sink
               where org_id = $1 and storage_connection_id = $2 and prefix = $3
           ) as "is_used!""#,
        sink.org_id.0,
        sink.storage_connection_id,
        sink.prefix
    );
    Ok(is_used.fetch_one(tx.conn()).await?)
}

/// Stores a new sink and its event.
pub(super) async fn insert(tx: &mut Tx, created: Changed<ExportSink>) -> Result<ExportSink> {
    let sink = created.state();
    query!(
        "insert into export_sink (org_id, id, name, storage_connection_id, prefix, ndjson, parquet,
             creator_id, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        sink.org_id as _,
        sink.id as _,
        sink.name,
        sink.storage_connection_id,
        sink.prefix,
        sink.ndjson,
        sink.parquet,
        sink.creator_id as _,
        sink.created_at,
        sink.updated_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(created))
}

/// Stores the settings of a sink and its event.
pub(super) async fn update(tx: &mut Tx, changed: Changed<ExportSink>) -> Result<ExportSink> {
    let sink = changed.state();
    query!(
        "update export_sink set name = $3, paused = $4, version = $5, updated_at = $6, next_attempt_at = $7
         where org_id = $1 and id = $2",
        sink.org_id as _,
        sink.id as _,
        sink.name,
        sink.paused,
        sink.version,
        sink.updated_at,
        sink.next_attempt_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(changed))
}

/// Deletes a sink, and stores its event.
pub(super) async fn delete(tx: &mut Tx, deleted: Changed<ExportSink>) -> Result<()> {
    let sink = deleted.state();
    query!("delete from export_sink where org_id = $1 and id = $2", sink.org_id as _, sink.id as _)
        .execute(tx.conn())
        .await?;
    tx.emit(deleted);
    Ok(())
}
