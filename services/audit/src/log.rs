//! Entries of the log: there is no way to change or delete one (AU-3).

pub(crate) mod key;
pub(crate) mod rpc;
pub(crate) mod signing;
pub(crate) mod store;

use time::OffsetDateTime;

/// One entry.
pub(crate) struct Entry {
    pub(crate) index: i64,
    pub(crate) leaf: Vec<u8>,
    pub(crate) leaf_hash: Vec<u8>,
    pub(crate) received_at: OffsetDateTime,
}

/// What a list is narrowed to; all that are given must hold (AU-13).
#[derive(Default)]
pub(crate) struct Filter {
    pub(crate) project_id: Option<uuid::Uuid>,
    pub(crate) event_type: Option<String>,
    pub(crate) actor_id: Option<String>,
}
