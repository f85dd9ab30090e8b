//! The daily purge, and legal holds.

use std::time::Duration;

use api::audit::{EntriesPurged, LegalHoldChanged};
use chassis::{About, Changed, Db, OrgId, Result, Tx};
use tokio_util::sync::CancellationToken;

use super::{is_due, store};

/// How often it is looked for something to purge.
const EVERY: Duration = Duration::from_secs(3600);

/// Purges what is due, until `stop`.
pub(crate) async fn run(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        if let Err(error) = purge(&db).await {
            tracing::warn!(%error, "nothing was purged; it will be");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
    Ok(())
}

/// Purges every month of every log that is due. A month at a time, each in a transaction.
pub(crate) async fn purge(db: &Db) -> Result<()> {
    let current = crate::log::store::month(db.now());
    for month in store::months(db).await?.into_iter().filter(|it| *it < current) {
        let mut due = vec![];
        for log in store::limited(db, month).await? {
            if is_due(month, log.days, db.now()) {
                due.push(log);
            }
        }
        if due.is_empty() {
            continue;
        }
        let work = async |tx: &mut Tx| {
            for log in store::purge(tx, month, &due).await? {
                let about = About::object("organization", log.org_id.to_string(), "");
                let of_org = !log.org_id.is_nil();
                let about = if of_org { about.of(OrgId(log.org_id)) } else { about };
                let (first_index, last_index) = (log.first, log.last);
                let event =
                    EntriesPurged { first_index, last_index, count: log.last - log.first + 1 };
                tx.emit(Changed::new((), &event, about));
            }
            Ok(())
        };
        db.write_as_system("purge", work).await?;
    }
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
