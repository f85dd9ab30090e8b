//! Forgets what was told long ago.

use std::time::Duration;

use chassis::{Db, Tx};
use tokio_util::sync::CancellationToken;

use super::store;
use crate::digest;

const PAUSE: Duration = Duration::from_secs(3600);

/// How long notifications are kept.
const KEPT: time::Duration = time::Duration::days(90);

/// How long it is known what a mail told.
const MAILS_KEPT: time::Duration = time::Duration::days(7);

/// Runs until the process ends.
pub(crate) async fn forget(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    while stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
        let forget = async |tx: &mut Tx| {
            store::forget_old(tx, tx.now - KEPT).await?;
            digest::store::forget(tx, tx.now - MAILS_KEPT).await
        };
        if let Err(error) = db.write_as_system("notifications", forget).await {
            tracing::warn!(%error, "old notifications were not forgotten");
        }
    }
    Ok(())
}
