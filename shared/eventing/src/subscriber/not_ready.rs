//! The error of a reaction that waits.

use std::fmt;

use chassis::Error;

/// Error of a reaction that waits for something else, which the text describes, to end. The event is deferred
/// and handled again like after a failure, but the wait is expected: it is logged at the level DEBUG, and is
/// not counted as an attempt. A reaction limits the duration of its wait itself, because the later events of
/// the group ([`Subscriber::group`](super::Subscriber::group)) wait as well.
#[derive(Clone, Copy, Debug)]
pub struct NotReady(pub &'static str);

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl From<NotReady> for Error {
    fn from(wait: NotReady) -> Self {
        Self::Internal(anyhow::Error::msg(wait))
    }
}

impl NotReady {
    /// Returns the wait, if an error is one.
    pub(super) fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Internal(error) => error.downcast_ref().copied(),
            _ => None,
        }
    }
}
