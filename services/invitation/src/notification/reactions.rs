//! Reactions of the notification half to events of other services.

use api::{identity as pb, project as prj};
use chassis::{Result, Tx};

use super::{alert, digest, inbox, mail_rule, preference, webhook};

/// Deletes the notification data of a purged organization.
pub(super) async fn organization_purged(tx: &mut Tx, event: pb::OrganizationPurged) -> Result<()> {
    let Some(organization) = event.before else { return Ok(()) };
    let org_id = organization.id.parse()?;
    webhook::store::purge(tx, org_id).await?;
    mail_rule::store::purge(tx, org_id).await?;
    alert::store::purge(tx, org_id).await?;
    digest::store::purge(tx, org_id).await?;
    inbox::store::purge(tx, org_id).await
}

/// Deletes the webhooks, mail rules and alerts of a deleted project (PE-15).
pub(super) async fn project_deleted(tx: &mut Tx, event: prj::ProjectDeleted) -> Result<()> {
    let Some(project) = event.before else { return Ok(()) };
    let org_id = project.org_id.parse()?;
    let project_id = project.id.parse()?;
    webhook::store::delete_of_project(tx, org_id, project_id).await?;
    mail_rule::store::delete_of_project(tx, org_id, project_id).await?;
    alert::store::delete_of_project(tx, org_id, project_id).await
}

/// Deletes the preferences, notifications and waiting mails of a deleted account.
pub(super) async fn account_deleted(tx: &mut Tx, event: pb::UserDeleted) -> Result<()> {
    let Some(account) = event.before else { return Ok(()) };
    let user_id = account.id.parse()?;
    preference::store::delete_of_user(tx, user_id).await?;
    inbox::store::delete_of_user(tx, user_id).await?;
    digest::store::delete_of_user(tx, user_id).await
}
