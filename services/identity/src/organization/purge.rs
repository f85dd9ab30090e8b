//! The purge of deleted organizations after their time for a restore (ID-35).

use std::collections::HashMap;

use chassis::{Db, Error, OrgId, Result, Tx};
use time::{Duration, OffsetDateTime};
use tokio_util::sync::CancellationToken;

use super::{RESTORABLE, store};

/// The pause between two purges.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(2);
/// The pause after the first failure; each further failure doubles it.
const RETRY_MIN: Duration = Duration::minutes(1);
/// The longest pause between two tries.
const RETRY_MAX: Duration = Duration::days(1);

/// Organizations whose purge failed, with their number of failures and the time of the next try. They are
/// left out until then, so that none holds up the others.
#[derive(Default)]
struct Failures(HashMap<OrgId, (u32, OffsetDateTime)>);

impl Failures {
    /// Records a failure; answers the number of failures and the time of the next try.
    fn record(&mut self, id: OrgId, now: OffsetDateTime) -> (u32, OffsetDateTime) {
        let failures = self.0.get(&id).map_or(0, |it| it.0) + 1;
        let pause = RETRY_MIN * 2_i32.pow(failures.min(20) - 1);
        let next = now + pause.min(RETRY_MAX);
        self.0.insert(id, (failures, next));
        (failures, next)
    }

    /// Organizations that are not tried at this moment.
    fn waiting(&self, now: OffsetDateTime) -> Vec<OrgId> {
        self.0.iter().filter(|it| it.1.1 > now).map(|it| *it.0).collect()
    }
}

/// Purges organizations that are due, one at a time, until `stop`.
pub(crate) async fn run(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    let mut failures = Failures::default();
    while stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
        if let Err(error) = next(&db, &mut failures).await {
            tracing::warn!(?error, "deleted organizations cannot be listed for their purge");
        }
    }
    Ok(())
}

async fn next(db: &Db, failures: &mut Failures) -> Result<()> {
    let now = db.now();
    let due = store::due_for_purge(db, now - RESTORABLE, &failures.waiting(now)).await?;
    let Some(id) = due else { return Ok(()) };
    match db.write_as_system("purge", async |tx: &mut Tx| purge(tx, id).await).await {
        Ok(()) => {
            failures.0.remove(&id);
            tracing::info!(%id, "a deleted organization was purged");
        }
        // Another replica was faster.
        Err(Error::NotFound(_)) => {}
        Err(error) => {
            let (failures, next) = failures.record(id, now);
            tracing::error!(%id, failures, %next, ?error, "a deleted organization was not purged");
        }
    }
    Ok(())
}

async fn purge(tx: &mut Tx, id: OrgId) -> Result<()> {
    let organization = store::lock(tx, id).await?;
    // It may have been restored since it was listed.
    if organization.deleted_at.is_none_or(|it| it + RESTORABLE > tx.now) {
        return Ok(());
    }
    store::purge(tx, organization.purge()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_purge_waits_longer_after_each_failure_and_a_day_at_most() {
        let (id, now, mut failures) =
            (OrgId::new(), OffsetDateTime::UNIX_EPOCH, Failures::default());
        assert_eq!(failures.record(id, now), (1, now + Duration::minutes(1)));
        assert_eq!(failures.record(id, now), (2, now + Duration::minutes(2)));
        assert_eq!(failures.waiting(now), [id]);
        assert!(failures.waiting(now + Duration::minutes(2)).is_empty());
        let last = (0..100).map(|_| failures.record(id, now)).last();
        assert_eq!(last, Some((102, now + RETRY_MAX)));
    }
}
