//! Reading entries: lists, searches, and streams of new entries.

#[cfg(test)]
mod fuzz;
pub(crate) mod read;
pub(crate) mod search;
pub(crate) mod store;
pub(crate) mod watch;

use time::OffsetDateTime;
use uuid::Uuid;

/// An entry as stored.
pub(crate) struct EntryRow {
    pub(crate) index: i64,
    pub(crate) event_id: Uuid,
    pub(crate) received_at: OffsetDateTime,
    /// Bits of [`crate::log::EntryFlags`].
    pub(crate) flags: i16,
    pub(crate) leaf: Vec<u8>,
}
