//! Rows that sign-ins leave behind, and how long they are kept.

use chassis::{Db, Host};
use time::Duration;

use crate::{mailed_link, provider, session};

/// How long a mailed link or notice is kept after its time: a mail server that is away gets mails for eight
/// hours.
pub(crate) const MAILED_LINKS_KEPT: Duration = Duration::days(1);

/// Adds the steps of this service to the retention job. A session is kept until it would have expired, also
/// if it was ended before: an address from which somebody signed in lately is a known place (I-06). A sign-in
/// that waits for a code or a provider goes with its time.
pub(crate) fn install(host: &mut Host, db: &Db) {
    host.retain(db, session::store::delete_expired);
    host.retain(db, session::store::delete_expired_challenges);
    host.retain(db, provider::store::delete_expired);
    host.retain(db, mailed_link::store::delete_expired);
}
