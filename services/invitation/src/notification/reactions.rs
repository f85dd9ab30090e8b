//! Reactions of the notification half to events of other services: they delete the data of organizations,
//! projects and accounts that were deleted.

use api::{identity as pb, project as prj};
use chassis::{Result, Tx};

use super::deletion::store;

/// Deletes the notification data of a purged organization.
pub(super) async fn organization_purged(tx: &mut Tx, event: pb::OrganizationPurged) -> Result<()> {
    let Some(organization) = event.before else { return Ok(()) };
    store::delete_of_org(tx, organization.id.parse()?).await
}

/// Deletes the notification data of a deleted project (PE-15).
pub(super) async fn project_deleted(tx: &mut Tx, event: prj::ProjectDeleted) -> Result<()> {
    let Some(project) = event.before else { return Ok(()) };
    store::delete_of_project(tx, project.org_id.parse()?, project.id.parse()?).await
}

/// Deletes the notification data of a deleted account.
pub(super) async fn account_deleted(tx: &mut Tx, event: pb::UserDeleted) -> Result<()> {
    let Some(account) = event.before else { return Ok(()) };
    store::delete_of_user(tx, account.id.parse()?).await
}
