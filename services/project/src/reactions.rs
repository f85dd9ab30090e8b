//! What this service does when something happened elsewhere.

use api::{identity, project as pb};
use chassis::{About, Changed, Result, Tx};

use crate::project::store;

/// A project that identity registered, and whose creation then broke off here, is given back. Waits for a
/// creation that is still going on.
pub(crate) async fn project_registered(
    tx: &mut Tx,
    event: identity::ProjectRegistered,
) -> Result<()> {
    let Some(it) = event.after else { return Ok(()) };
    let (org_id, id) = (it.org_id.parse()?, it.project_id.parse()?);
    store::lock_id(tx, id).await?;
    if store::exists(tx, org_id, id).await? {
        return Ok(());
    }
    let event = pb::ProjectAbandoned { org_id: it.org_id, project_id: it.project_id };
    let about = About::object("project", id, "").of(org_id).in_project(id);
    tx.emit(Changed::new((), &event, about)).await
}
