//! Fail-over and restart of the database: connections to a server that is read-only or has ended are not used
//! again, so that the next ones find the new primary.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use crate::{Error, error::READ_ONLY};

/// Moment at which a server was last found to be read-only, or to have ended. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Failover(Arc<Mutex<Option<Instant>>>);

impl Failover {
    /// Records that a server is read-only or has ended, if an error says so.
    pub(super) fn record_error(&self, error: &Error) {
        if let Error::Database(error) = error {
            self.record_database_error(error);
        }
    }

    /// Like [`Self::record_error`].
    pub(super) fn record_database_error(&self, error: &sqlx::Error) {
        let is_lost = match error {
            // Of one connection, but its server has probably ended, and with it the others.
            sqlx::Error::Io(_) => true,
            sqlx::Error::Database(error) => error.code().is_some_and(|it| it == READ_ONLY),
            _ => false,
        };
        if is_lost {
            self.record();
        }
    }

    /// Records that a server is read-only or has ended.
    pub(super) fn record(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// True if a connection was opened before the server was found to be read-only or to have ended.
    pub(super) fn is_outdated(&self, opened: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|it| opened <= it)
    }
}
