//! What this service does when something happened anywhere.

use chassis::{Result, Tx, outbox::Delivery};

use crate::log::store;

/// Every event becomes an entry, once.
pub(crate) async fn record(tx: &mut Tx, batch: Vec<Delivery>) -> Result<()> {
    store::append(tx, batch).await.map(|_| ())
}
