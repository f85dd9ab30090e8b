//! Erasure of a person from the log.

use api::audit::AuditPersonErased;
use chassis::{Changed, EventTarget, OrgId, Result, Tx};
use uuid::Uuid;

use super::store;

/// Erases a person: destroys the keys of the account and of its addresses, removes its names from the search
/// index, and emits an event to every log that has entries about the account.
pub(crate) async fn erase_person(tx: &mut Tx, user_id: Uuid, cause_event_id: Uuid) -> Result<()> {
    let destroyed_keys = store::destroy_keys(tx, user_id).await?;
    let event = AuditPersonErased {
        user_id: user_id.to_string(),
        keys: i32::try_from(destroyed_keys).unwrap_or(i32::MAX),
        cause_event_id: cause_event_id.to_string(),
    };
    for org_id in store::orgs_with_entries_about(tx, user_id).await? {
        let target = EventTarget::object("user", user_id.to_string(), "");
        let target = if org_id.is_nil() { target } else { target.in_org(OrgId(org_id)) };
        tx.emit(Changed::new((), &event, target));
    }
    Ok(())
}
