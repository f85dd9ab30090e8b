//! Purge of deleted organizations after their restore period (ID-35).

use std::collections::HashMap;

use chassis::{Db, Error, OrgId, Result, Tx};
use identity_rules::organization::RESTORE_PERIOD;
use time::{Duration, OffsetDateTime};
use tokio_util::sync::CancellationToken;

use super::store;

/// Pause between two purges.
const INTERVAL: std::time::Duration = std::time::Duration::from_secs(2);
/// Delay after the first failure; each further failure doubles it.
const RETRY_MIN: Duration = Duration::minutes(1);
/// Longest delay after a failure.
const RETRY_MAX: Duration = Duration::days(1);

/// Organizations whose purge has failed. They are skipped until their next attempt, so that they do not block
/// the purge of others.
#[derive(Default)]
struct Failures(HashMap<OrgId, Failure>);

/// The failed purge of an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure {
    attempts: u32,
    next_attempt_at: OffsetDateTime,
}

impl Failures {
    /// Records a failed attempt and schedules the next one.
    fn record(&mut self, id: OrgId, now: OffsetDateTime) -> Failure {
        let attempts = self.0.get(&id).map_or(0, |it| it.attempts) + 1;
        let delay = RETRY_MIN * 2_i32.pow(attempts.min(20) - 1);
        let failure = Failure { attempts, next_attempt_at: now + delay.min(RETRY_MAX) };
        self.0.insert(id, failure);
        failure
    }

    /// Returns the organizations whose next attempt is not due at `now`.
    fn delayed(&self, now: OffsetDateTime) -> Vec<OrgId> {
        let delayed = self.0.iter().filter(|(_, failure)| failure.next_attempt_at > now);
        delayed.map(|(id, _)| *id).collect()
    }
}

/// Purges organizations whose restore period has ended, one at a time, until `stop` is cancelled.
pub(crate) async fn run(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    let mut failures = Failures::default();
    let interval = db.poll_interval(INTERVAL);
    while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        if let Err(error) = purge_next(&db, &mut failures).await {
            tracing::warn!(?error, "cannot list deleted organizations for their purge");
        }
    }
    Ok(())
}

async fn purge_next(db: &Db, failures: &mut Failures) -> Result<()> {
    let now = db.now();
    let due = store::next_for_purge(db, now - RESTORE_PERIOD, &failures.delayed(now)).await?;
    let Some(id) = due else { return Ok(()) };
    match db.write_as_system("purge", async |tx: &mut Tx| purge(tx, id).await).await {
        Ok(()) => {
            failures.0.remove(&id);
            tracing::info!(%id, "purged a deleted organization");
        }
        // Another replica has purged it.
        Err(Error::NotFound(_)) => {}
        Err(error) => {
            let Failure { attempts, next_attempt_at } = failures.record(id, now);
            tracing::error!(
                %id,
                attempts,
                %next_attempt_at,
                ?error,
                "the purge of a deleted organization failed; it will be retried"
            );
        }
    }
    Ok(())
}

async fn purge(tx: &mut Tx, id: OrgId) -> Result<()> {
    let organization = store::lock(tx, id).await?;
    // It may have been restored since it was listed.
    if organization.deleted_at.is_none_or(|it| it + RESTORE_PERIOD > tx.now) {
        return Ok(());
    }
    store::purge(tx, organization.purge()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_purge_waits_longer_after_each_failure_and_a_day_at_most() {
        let id = OrgId::new();
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut failures = Failures::default();
        let failure = |attempts, delay| Failure { attempts, next_attempt_at: now + delay };
        assert_eq!(failures.record(id, now), failure(1, Duration::minutes(1)));
        assert_eq!(failures.record(id, now), failure(2, Duration::minutes(2)));
        assert_eq!(failures.delayed(now), [id]);
        assert!(failures.delayed(now + Duration::minutes(2)).is_empty());
        let last = (0..100).map(|_| failures.record(id, now)).last();
        assert_eq!(last, Some(failure(102, RETRY_MAX)));
    }
}
