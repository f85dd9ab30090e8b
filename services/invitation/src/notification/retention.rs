//! Retention of notifications, mails about events, and deliveries of webhooks.

use chassis::Db;
use host::Host;

use super::{digest, inbox, webhook};

/// Adds the steps of the notification half to the retention job.
pub(super) fn install(host: &mut Host, db: &Db) {
    host.add_retention_step(db, inbox::store::delete_old);
    host.add_retention_step(db, digest::store::delete_old);
    host.add_retention_step(db, webhook::delivery::store::delete_old);
}
