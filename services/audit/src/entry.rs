//! Reading entries: lists, and what comes.

pub(crate) mod find;
#[cfg(test)]
mod fuzz;
pub(crate) mod read;
pub(crate) mod rpc;
pub(crate) mod store;
pub(crate) mod watch;

use time::OffsetDateTime;
use uuid::Uuid;

/// One entry, as it is stored.
pub(crate) struct Row {
    pub(crate) index: i64,
    pub(crate) event_id: Uuid,
    pub(crate) received_at: OffsetDateTime,
    pub(crate) flags: i16,
    pub(crate) leaf: Vec<u8>,
}
