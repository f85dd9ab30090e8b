//! How long ended invitations and messages are kept.

mod store;

use chassis::{Db, Host};
use time::Duration;

/// Invitations after their end: long enough to see in the list who came by which; the audit log keeps more.
const INVITATIONS_KEPT: Duration = Duration::days(90);

/// Notifications in the application.
const NOTIFICATIONS_KEPT: Duration = Duration::days(90);

/// The texts of mails about events, for a mail server that is away.
const DIGESTS_KEPT: Duration = Duration::days(7);

/// Deliveries of webhooks, which can be replayed as long.
const DELIVERIES_KEPT: Duration = Duration::days(30);

/// Adds the steps of this service to the retention job.
pub(crate) fn install(host: &mut Host, db: &Db) {
    host.retain(db, store::delete_invitations);
    host.retain(db, store::delete_notifications);
    host.retain(db, store::delete_digests);
    host.retain(db, store::delete_deliveries);
}
