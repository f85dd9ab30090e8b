//! The daily purge, and legal holds.

use std::time::Duration;

use api::audit::{EntriesPurged, LegalHoldChanged};
use chassis::{About, Changed, Db, OrgId, Result, Tx};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{purged_before, store};

/// How often it is looked for something to purge.
const EVERY: Duration = Duration::from_secs(3600);

/// Purges what is due, until `stop`.
pub(crate) async fn run(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        if let Err(error) = purge(&db).await {
            tracing::warn!(?error, "the purge broke off; it goes on at the next look");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
    Ok(())
}

/// How many entries are deleted in one transaction. Ingestion waits for one such transaction at most.
const BATCH: i32 = 500;

/// Purges what is due: marks it, log by log, then deletes what is marked in small batches, then drops months
/// that are empty. A purge that breaks off goes on at the next look.
pub(crate) async fn purge(db: &Db) -> Result<()> {
    for (plan, days) in store::plans(db).await? {
        mark(db, &plan, purged_before(days, db.now())).await?;
    }
    for number in store::undeleted(db).await? {
        let batch = async |tx: &mut Tx| store::delete_purged(tx, number, BATCH).await;
        while db.write_as_system("purge", batch).await? {}
    }
    db.write_as_system("purge", async |tx: &mut Tx| store::forget_erased(tx).await).await?;
    // Nothing is received in a month that is over for so long.
    let old = purged_before(0, db.now()).date();
    for month in store::months(db).await?.into_iter().filter(|it| *it < old) {
        db.write_as_system("purge", async |tx: &mut Tx| store::drop_month(tx, month).await).await?;
    }
    Ok(())
}

/// Marks the entries of every log with a plan that were received before a moment, each log in a transaction.
async fn mark(db: &Db, plan: &str, before: OffsetDateTime) -> Result<()> {
    let mut after = 0;
    loop {
        let page = store::page(db, plan, before, after).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = *last;
        for (number, _) in page.into_iter().filter(|it| it.1) {
            db.write_as_system("purge", async |tx: &mut Tx| mark_one(tx, number, before).await)
                .await?;
        }
    }
}

async fn mark_one(tx: &mut Tx, number: i32, before: OffsetDateTime) -> Result<()> {
    let Some(log) = store::mark_purged(tx, number, before).await? else { return Ok(()) };
    let about = About::object("organization", log.org_id.to_string(), "");
    let of_org = !log.org_id.is_nil();
    let about = if of_org { about.of(OrgId(log.org_id)) } else { about };
    let (first_index, last_index) = (log.first, log.last);
    let event = EntriesPurged { first_index, last_index, count: last_index - first_index + 1 };
    tx.emit(Changed::new((), &event, about));
    Ok(())
}

/// Holds a log, or lets it go. What is so already is no change (AU-19).
pub(crate) async fn hold(tx: &mut Tx, org_id: OrgId, held: bool, note: &str) -> Result<()> {
    if store::hold(tx, org_id, held).await? {
        let event = LegalHoldChanged { held, note: note.to_owned() };
        let about = About::object("organization", org_id, "").of(org_id);
        tx.emit(Changed::new((), &event, about));
    }
    Ok(())
}
