//! Events of expired invitations, one for each. The state EXPIRED needs no job: every read computes it.

use std::time::Duration;

use chassis::{Db, Result, Tx};
use tokio_util::sync::CancellationToken;
use worker::{Progress, Schedule};

use super::store;

/// Time between two searches for expired invitations.
const INTERVAL: Duration = Duration::from_secs(1);

/// Largest number of invitations in one transaction.
const BATCH: i64 = 100;

/// Runs until the process ends.
pub(super) async fn run(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    let step = || async { Ok(db.write_as_system("invitation expiry", step).await?) };
    worker::run("invitation expiry".to_owned(), Schedule::every(INTERVAL), stop, step).await;
    Ok(())
}

async fn step(tx: &mut Tx) -> Result<Progress> {
    let expired = store::lock_expired(tx, BATCH).await?;
    let is_full = i64::try_from(expired.len()).unwrap_or_default() == BATCH;
    for invitation in expired {
        store::update(tx, invitation.expire(tx.now)).await?;
    }
    Ok(Progress::busy_if(is_full))
}
