//! Forgetting a person.

use api::audit::PersonErased;
use chassis::{About, Changed, OrgId, Result, Tx};
use uuid::Uuid;

use super::store;

/// Forgets a person: their keys and those of their addresses are destroyed, their names go from the search,
/// and every log in which they occur gets an entry that says so.
pub(crate) async fn person(tx: &mut Tx, user_id: Uuid, cause: Uuid) -> Result<()> {
    let keys = store::forget(tx, user_id).await?;
    let event = PersonErased {
        user_id: user_id.to_string(),
        keys: i32::try_from(keys).unwrap_or(i32::MAX),
        cause_event_id: cause.to_string(),
    };
    for org_id in store::trees_of(tx, user_id).await? {
        let about = About::object("user", user_id.to_string(), "");
        let about = if org_id.is_nil() { about } else { about.of(OrgId(org_id)) };
        tx.emit(Changed::new((), &event, about));
    }
    Ok(())
}
