//! SQL statements about logs in quarantine and the stop of signing.

use chassis::{Db, Result, Tx};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

/// A log in quarantine.
#[derive(Clone, Debug)]
pub(crate) struct Quarantine {
    pub(crate) org_id: Uuid,
    /// Code of the damage.
    pub(crate) cause: String,
    /// Message of the damage.
    pub(crate) detail: String,
    pub(crate) since: OffsetDateTime,
}

/// Puts a log into quarantine. Returns false if it is in quarantine already.
pub(crate) async fn insert_quarantine(
    tx: &mut Tx,
    org_id: Uuid,
    cause: &str,
    detail: &str,
) -> Result<bool> {
    let now = tx.now;
    let inserted = query!(
        "insert into quarantine (org_id, cause, detail, since) values ($1, $2, $3, $4)
         on conflict do nothing",
        org_id,
        cause,
        detail,
        now
    );
    Ok(inserted.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Releases a log from quarantine. Returns false if it was not in quarantine.
pub(crate) async fn delete_quarantine(tx: &mut Tx, org_id: Uuid) -> Result<bool> {
    let deleted = query!("delete from quarantine where org_id = $1", org_id);
    Ok(deleted.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Returns all logs in quarantine.
pub(crate) async fn quarantines(db: &Db) -> Result<Vec<Quarantine>> {
    // All organizations, for alarms (no org_id).
    let rows = query_as!(
        Quarantine,
        "select org_id, cause, detail, since from quarantine order by org_id"
    );
    Ok(rows.fetch_all(db.pool()).await?)
}

/// The stop of all signing.
#[derive(Clone, Debug)]
pub(crate) struct SigningStop {
    /// The tree in which the contradiction was found.
    pub(crate) org_id: Uuid,
    pub(crate) detail: String,
    pub(crate) since: OffsetDateTime,
}

/// Stops all signing under a name of the log, and invalidates the fencing token, so that no transaction of a
/// signer commits later. Returns false if signing is stopped already.
pub(crate) async fn insert_stop(
    tx: &mut Tx,
    log_name: &str,
    org_id: Uuid,
    detail: &str,
) -> Result<bool> {
    let now = tx.now;
    query!("update signer set holder = null, token = token + 1").execute(tx.conn()).await?;
    let inserted = query!(
        "insert into signing_stop (log_name, org_id, detail, since) values ($1, $2, $3, $4)
         on conflict do nothing",
        log_name,
        org_id,
        detail,
        now
    );
    Ok(inserted.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Lifts the stop of signing. Returns false if signing was not stopped.
pub(crate) async fn delete_stop(tx: &mut Tx, log_name: &str) -> Result<bool> {
    // The stop holds for all organizations (no org_id).
    let deleted = query!("delete from signing_stop where log_name = $1", log_name);
    Ok(deleted.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Returns the stop of signing under a name of the log.
pub(crate) async fn stop(db: &Db, log_name: &str) -> Result<Option<SigningStop>> {
    // The stop holds for all organizations (no org_id).
    let row = query_as!(
        SigningStop,
        "select org_id, detail, since from signing_stop where log_name = $1",
        log_name
    );
    Ok(row.fetch_optional(db.pool()).await?)
}
