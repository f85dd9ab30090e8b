//! Fail-over of the database: connections to a server that is read-only are closed, so that the next ones
//! find the new primary.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use crate::{Error, error::READ_ONLY};

/// Moment at which a server was last found to be read-only. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Failover(Arc<Mutex<Option<Instant>>>);

impl Failover {
    /// Records that a server is read-only, if an error says so.
    pub(super) fn record_error(&self, error: &Error) {
        let Error::Database(sqlx::Error::Database(error)) = error else { return };
        if error.code().is_some_and(|it| it == READ_ONLY) {
            self.record();
        }
    }

    /// Records that a server is read-only.
    pub(super) fn record(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// True if a connection was opened before the server was found to be read-only.
    pub(super) fn is_outdated(&self, opened: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|it| opened <= it)
    }
}
