//! Deletion of expired rows of sign-ins.

use chassis::Db;
use host::Host;

use crate::{mailed_link, provider, session, user};

/// Adds the steps of this service to the retention job. An ended session is kept until it would have
/// expired: it shows from which networks the account signed in recently; those have a limit of attempts of
/// their own.
pub(crate) fn install(host: &mut Host, db: &Db) {
    host.add_retention_step(db, session::store::delete_expired);
    host.add_retention_step(db, session::store::delete_expired_challenges);
    host.add_retention_step(db, provider::store::delete_expired);
    host.add_retention_step(db, mailed_link::store::delete_expired);
    host.add_retention_step(db, user::commands::claims::end_expired);
}
