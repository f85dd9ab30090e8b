//! Reactions to events of other services.

use api::{invitation, project as pb};
use chassis::{Result, Tx};
use identity_rules::types::ProjectRef;

use crate::{organization, project_access::commands};

/// Removes a project whose creation was abandoned.
pub(crate) async fn project_abandoned(tx: &mut Tx, event: pb::ProjectAbandoned) -> Result<()> {
    let org_id = event.org_id.parse()?;
    let project_id = event.project_id.parse()?;
    commands::unregister(tx, ProjectRef { org_id, project_id }).await
}

/// Removes a deleted project with its grants and API keys (PE-15).
pub(crate) async fn project_deleted(tx: &mut Tx, event: pb::ProjectDeleted) -> Result<()> {
    let Some(project) = event.before else { return Ok(()) };
    let org_id = project.org_id.parse()?;
    let project_id = project.id.parse()?;
    commands::unregister(tx, ProjectRef { org_id, project_id }).await
}

/// Records that the project service has deleted its data of a deleted organization.
pub(crate) async fn project_cleanup_finished(
    tx: &mut Tx,
    event: pb::OrganizationProjectsClosed,
) -> Result<()> {
    let org_id = event.org_id.parse()?;
    organization::store::finish_cleanup(tx, org_id, "project", event.revision).await
}

/// Records that the invitation service has deleted its data of a deleted organization.
pub(crate) async fn invitation_cleanup_finished(
    tx: &mut Tx,
    event: invitation::OrganizationInvitationsClosed,
) -> Result<()> {
    let org_id = event.org_id.parse()?;
    organization::store::finish_cleanup(tx, org_id, "invitation", event.revision).await
}
