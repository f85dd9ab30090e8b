//! Notifications in the application. Each account reads and changes only its own (NO-11).

pub(crate) mod rpc;
pub(crate) mod store;
mod wire;

use api::notification::{NotificationCategory, Severity};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::db_enum::DbEnum;

/// A notification of one account.
#[derive(Clone, Debug)]
pub(crate) struct InboxItem {
    pub(crate) id: Uuid,
    pub(crate) org_id: Option<Uuid>,
    pub(crate) project_id: Option<Uuid>,
    pub(crate) event_id: Uuid,
    /// Name of the notification type.
    pub(crate) event_type: String,
    pub(crate) category: DbEnum<NotificationCategory>,
    pub(crate) severity: DbEnum<Severity>,
    pub(crate) title: String,
    pub(crate) body: String,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) read_at: Option<OffsetDateTime>,
}
