//! What this service does when something happened elsewhere.

use api::{invitation, project as pb};
use chassis::{Error, OrgId, ProjectId, Result, Tx};

use crate::{
    api_key, organization,
    project_access::{self, store},
};

/// A project that never came to be takes no place and is nobody's.
pub(crate) async fn project_abandoned(tx: &mut Tx, event: pb::ProjectAbandoned) -> Result<()> {
    forget(tx, event.org_id.parse()?, event.project_id.parse()?).await
}

/// A project that is gone takes its grants along, and the keys that were bound to it (PE-15).
pub(crate) async fn project_deleted(tx: &mut Tx, event: pb::ProjectDeleted) -> Result<()> {
    let Some(it) = event.before else { return Ok(()) };
    forget(tx, it.org_id.parse()?, it.id.parse()?).await
}

async fn forget(tx: &mut Tx, org_id: OrgId, project_id: ProjectId) -> Result<()> {
    match organization::store::lock(tx, org_id).await {
        // Purged, and everything of the project with it.
        Err(Error::NotFound(_)) => return Ok(()),
        locked => locked?,
    };
    if !store::is_registered(tx, org_id, project_id).await? {
        return Ok(());
    }
    let grants = store::all_on(tx, org_id, project_id).await?;
    let gone = project_access::unregister((org_id, project_id), &grants);
    organization::store::bump(tx, org_id, &gone).await?;
    store::delete_all_on(tx, org_id, project_id).await?;
    for key in api_key::store::of_project(tx, org_id, project_id).await? {
        if let Some(revoked) = key.revoke(tx.now) {
            api_key::store::revoke(tx, revoked).await?;
        }
    }
    store::delete_project(tx, org_id, project_id).await?;
    tx.emit(gone);
    Ok(())
}

/// The project service has taken along what it had of a deleted organization.
pub(crate) async fn project_closed(tx: &mut Tx, event: pb::OrganizationClosed) -> Result<()> {
    organization::store::closed(tx, event.org_id.parse()?, "project", event.revision).await
}

/// The invitation service has taken along what it had of a deleted organization.
pub(crate) async fn invitation_closed(
    tx: &mut Tx,
    event: invitation::OrganizationClosed,
) -> Result<()> {
    organization::store::closed(tx, event.org_id.parse()?, "invitation", event.revision).await
}
