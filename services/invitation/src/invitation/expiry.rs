//! Job that emits one event for each expired invitation. The state EXPIRED does not depend on the job: every
//! read computes it.

use std::time::Duration;

use chassis::{Db, Result, Tx};
use tokio_util::sync::CancellationToken;
use worker::{Progress, Schedule};

use super::store;

/// Time between two searches for expired invitations.
const INTERVAL: Duration = Duration::from_secs(1);

/// Largest number of invitations in one transaction.
const BATCH: i64 = 100;

/// Emits the events until `stop` is cancelled.
pub(super) async fn run(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    let step = || async { Ok(db.write_as_system("invitation expiry", emit_batch).await?) };
    worker::run("invitation expiry".to_owned(), Schedule::polling(&db, INTERVAL), stop, step).await;
    Ok(())
}

async fn emit_batch(tx: &mut Tx) -> Result<Progress> {
    let expired = store::lock_expired(tx, BATCH).await?;
    let is_full_batch = i64::try_from(expired.len()).unwrap_or_default() == BATCH;
    for invitation in expired {
        store::update(tx, invitation.expire(tx.now)).await?;
    }
    // After a full batch there can be more expired invitations: the next step does not wait.
    Ok(Progress::busy_if(is_full_batch))
}
