//! Tells the expiry of invitations, once each. Whether one is expired follows from the clock at every look;
//! this only writes it down.

use std::time::Duration;

use chassis::{Db, Result, Tx};
use tokio_util::sync::CancellationToken;

use super::store;

/// How often it looks.
const PAUSE: Duration = Duration::from_secs(1);

/// How many it tells at a time.
const BATCH: i64 = 100;

/// Runs until the process ends.
pub(crate) async fn run(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    while stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
        loop {
            match db.write_as_system("expiry", step).await {
                Ok(told) if told == BATCH => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "the expiry of invitations waits");
                    break;
                }
            }
        }
    }
    Ok(())
}

async fn step(tx: &mut Tx) -> Result<i64> {
    let mut told = 0;
    for it in store::lock_expired(tx, BATCH).await? {
        store::update(tx, it.tell_expiry(tx.now)).await?;
        told += 1;
    }
    Ok(told)
}
