//! Signing: what is committed is signed, never the other way round.

use std::{sync::Arc, time::Duration};

use chassis::{Db, Tx};
use tokio_util::sync::CancellationToken;

use super::store;
use crate::checkpoint::Signer;

/// How often heads are looked at. Bounds how long an entry waits for its proof.
const INTERVAL: Duration = Duration::from_millis(200);

/// Signs the heads of trees that have grown, until `stop`.
pub(crate) async fn run(
    db: Db,
    signer: Arc<Signer>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        if let Err(error) = sign_heads(&db, &signer).await {
            tracing::warn!(%error, "heads were not signed; they will be");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
    Ok(())
}

async fn sign_heads(db: &Db, signer: &Signer) -> chassis::Result<()> {
    for (org_id, size) in store::unsigned(db).await? {
        // Read outside the transaction that grew the tree: only what is committed is seen.
        let root = store::root(db, org_id, size).await?;
        let note = signer.sign(org_id, size, &root);
        db.write_as_system("signer", async |tx: &mut Tx| {
            store::insert_checkpoint(tx, org_id, size, &note).await
        })
        .await?;
    }
    Ok(())
}
