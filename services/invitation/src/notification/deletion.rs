//! Deletion of notification data: together with its organization, project or account, and after its
//! retention.

pub(super) mod store;
