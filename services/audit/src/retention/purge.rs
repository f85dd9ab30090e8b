//! Job that purges entries past their retention, and legal holds, which prevent it.

use std::time::Duration;

use api::audit::{AuditEntriesPurged, AuditLegalHoldChanged};
use chassis::{Changed, Db, Error, EventTarget, OrgId, Result, Tx};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{
    purge_cutoff,
    store::{self, PlanRetention},
};
use crate::publication;

const PURGE_INTERVAL: Duration = Duration::from_secs(3600);

/// Entries that are deleted in one transaction, which blocks the appending of new ones.
const DELETE_BATCH: i32 = 500;

/// Purges entries once per interval until `stop`.
pub(crate) async fn run(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        if let Err(error) = purge(&db).await {
            tracing::warn!(
                ?error,
                "the purge of the audit log failed; it is repeated within an hour"
            );
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(PURGE_INTERVAL) => {}
        }
    }
    Ok(())
}

/// Purges entries in three steps: marks them log by log, deletes the marked ones in small batches, and drops
/// empty partitions. Also deletes keys of erased people, and replaced checkpoints. A failure in one log does
/// not prevent the purge of others.
async fn purge(db: &Db) -> Result<()> {
    for PlanRetention { plan, days } in store::plans(db).await? {
        mark_logs_of_plan(db, &plan, purge_cutoff(days, db.now())).await?;
    }
    for tree in store::trees_with_undeleted_entries(db).await? {
        if let Err(error) = delete_marked(db, tree).await {
            warn_of_failure(tree, &error);
        }
    }
    let destroy_keys = async |tx: &mut Tx| store::destroy_keys_of_erased(tx).await;
    db.write_as_system("purge", destroy_keys).await?;
    let delete_checkpoints = async |tx: &mut Tx| publication::store::delete_replaced(tx).await;
    db.write_as_system("purge", delete_checkpoints).await?;
    // No entry is received any more in a month that ended before the grace period.
    let oldest_month = purge_cutoff(0, db.now()).date();
    let months = store::partition_months(db).await?;
    for month in months.into_iter().filter(|month| *month < oldest_month) {
        let drop_month = async |tx: &mut Tx| store::drop_partition_if_empty(tx, month).await;
        db.write_as_system("purge", drop_month).await?;
    }
    Ok(())
}

/// Marks the entries of all logs with a plan that were received before a time, one transaction per log.
async fn mark_logs_of_plan(db: &Db, plan: &str, before: OffsetDateTime) -> Result<()> {
    let mut last_tree = 0;
    loop {
        let page = store::trees_of_plan(db, plan, before, last_tree).await?;
        let Some(last) = page.last() else { return Ok(()) };
        last_tree = last.number;
        for tree in page.into_iter().filter(|it| it.is_due) {
            let mark = async |tx: &mut Tx| mark_log(tx, tree.number, before).await;
            if let Err(error) = db.write_as_system("purge", mark).await {
                warn_of_failure(tree.number, &error);
            }
        }
    }
}

async fn delete_marked(db: &Db, tree: i32) -> Result<()> {
    let delete_batch = async |tx: &mut Tx| store::delete_purged(tx, tree, DELETE_BATCH).await;
    while db.write_as_system("purge", delete_batch).await? {}
    Ok(())
}

fn warn_of_failure(tree: i32, error: &Error) {
    tracing::warn!(tree, ?error, "the purge of one log failed; it is repeated within an hour");
}

async fn mark_log(tx: &mut Tx, tree: i32, before: OffsetDateTime) -> Result<()> {
    let Some(purged) = store::mark_purged(tx, tree, before).await? else { return Ok(()) };
    let target = EventTarget::object("organization", purged.org_id.to_string(), "");
    let target = if purged.org_id.is_nil() { target } else { target.in_org(OrgId(purged.org_id)) };
    let event = AuditEntriesPurged {
        first_index: purged.first_index,
        last_index: purged.last_index,
        count: purged.last_index - purged.first_index + 1,
    };
    tx.emit(Changed::new((), &event, target));
    Ok(())
}

/// Sets or removes the legal hold of a log. Emits an event only if that changes something (AU-19).
pub(crate) async fn set_legal_hold(
    tx: &mut Tx,
    org_id: OrgId,
    held: bool,
    note: &str,
) -> Result<()> {
    if store::set_legal_hold(tx, org_id, held).await? {
        let event = AuditLegalHoldChanged { held, note: note.to_owned() };
        let target = EventTarget::object("organization", org_id, "").in_org(org_id);
        tx.emit(Changed::new((), &event, target));
    }
    Ok(())
}
