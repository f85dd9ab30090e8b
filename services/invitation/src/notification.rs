//! What a person is told in the application. Everything is their own (NO-11).

pub(crate) mod rpc;
pub(crate) mod store;
mod watch;
mod wire;

use time::OffsetDateTime;
use uuid::Uuid;

/// Something a person is told.
#[derive(Clone, Debug)]
pub(crate) struct Notification {
    pub(crate) id: Uuid,
    pub(crate) org_id: Option<Uuid>,
    pub(crate) project_id: Option<Uuid>,
    pub(crate) event_id: Uuid,
    pub(crate) event_type: String,
    /// Numbers of the contract.
    pub(crate) category: i32,
    pub(crate) severity: i32,
    pub(crate) title: String,
    pub(crate) body: String,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) read_at: Option<OffsetDateTime>,
}
