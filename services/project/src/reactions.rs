//! Reactions to events of identity, and background jobs.

use std::time::Duration;

use api::{identity, project as pb};
use chassis::{Changed, Db, EventTarget, OrgId, Result, Tx, UserId};
use tokio_util::sync::CancellationToken;
use worker::{Progress, Schedule};

use crate::{
    environment::{self, Environment, commands::enqueue_stop},
    organization::{self, Status},
    project::{self, ProjectRef, reservation},
    server::heartbeat,
    task::{self, Kind},
};

/// Notes the registration of a project whose creation is in progress. If the creation failed or was
/// interrupted, makes identity drop the registration (see `project::commands::CreateProject`).
pub(crate) async fn project_registered(
    tx: &mut Tx,
    event: identity::ProjectRegistered,
) -> Result<()> {
    let Some(grant) = event.after else { return Ok(()) };
    let project =
        ProjectRef { org_id: grant.org_id.parse()?, project_id: grant.project_id.parse()? };
    // A confirmation locks the row of the reservation, so that its project is visible after this statement.
    if reservation::store::mark_registered(tx, project).await?
        || project::store::exists(tx, project).await?
    {
        return Ok(());
    }
    tx.emit(reservation::abandoned(project));
    Ok(())
}

/// Ends the programs and tasks of a deleted organization. Its rows are kept until the purge.
pub(crate) async fn organization_deleted(
    tx: &mut Tx,
    event: identity::OrganizationDeleted,
) -> Result<()> {
    let Some(organization) = event.after else { return Ok(()) };
    if !record_status(tx, &organization).await? {
        return Ok(());
    }
    let org_id: OrgId = organization.id.parse()?;
    let owner_id = organization.owner_id.parse()?;
    let mut stopping_environments = 0;
    // Every environment is locked, so that operations that are in progress end first, and their tasks are
    // seen here.
    for environment in environment::store::lock_of_organization(tx, org_id).await? {
        stopping_environments += i32::from(end_programs(tx, environment, owner_id).await?);
    }
    let event = pb::OrganizationProjectsClosed {
        org_id: organization.id,
        revision: organization.revision,
        stopping_environments,
    };
    let target = EventTarget::object("organization", org_id, organization.name).in_org(org_id);
    tx.emit(Changed::new((), &event, target));
    Ok(())
}

/// Records that a deleted organization was restored. Programs are not started.
pub(crate) async fn organization_restored(
    tx: &mut Tx,
    event: identity::OrganizationRestored,
) -> Result<()> {
    let Some(organization) = event.after else { return Ok(()) };
    record_status(tx, &organization).await?;
    Ok(())
}

/// Records that the subscription of an organization is blocked, or no longer blocked. Programs keep running
/// (PL-4).
pub(crate) async fn subscription_changed(
    tx: &mut Tx,
    event: identity::SubscriptionChanged,
) -> Result<()> {
    let Some(organization) = event.after else { return Ok(()) };
    record_status(tx, &organization).await?;
    Ok(())
}

/// Records the status of an organization, and wakes the runners, for which tasks may have waited. `false`:
/// a newer revision is already recorded.
async fn record_status(tx: &mut Tx, organization: &identity::Organization) -> Result<bool> {
    let is_blocked = organization.subscription() == identity::Subscription::Blocked;
    let status = Status::from_flags(organization.delete_time.is_some(), is_blocked);
    let org_id = organization.id.parse()?;
    tx.wake();
    organization::store::set_status(tx, org_id, organization.revision, status).await
}

/// Deletes everything that a purged organization has here.
pub(crate) async fn organization_purged(
    tx: &mut Tx,
    event: identity::OrganizationPurged,
) -> Result<()> {
    let Some(organization) = event.before else { return Ok(()) };
    organization::store::purge(tx, organization.id.parse()?).await
}

/// Error of tasks that are cancelled because their organization was deleted.
const ORGANIZATION_DELETED: &str = "the organization was deleted";

/// Cancels the active task of a locked environment and enqueues the stop of its program. Returns true if
/// anything had to be ended.
async fn end_programs(tx: &mut Tx, environment: Environment, user_id: UserId) -> Result<bool> {
    let project_ref = environment.project_ref();
    let id = environment.id;
    // The cancellation of a clone task of an earlier environment has changed this one, if it was the source.
    let mut environment = environment::store::lock(tx, project_ref, id).await?;
    if let Some(task) = task::store::active(tx, &environment).await? {
        if matches!(task.kind, Kind::Stop | Kind::Destroy) {
            return Ok(true);
        }
        let task = task::store::lock(tx, project_ref.org_id, task.id).await?;
        task::commands::cancel_task(tx, task, ORGANIZATION_DELETED).await?;
        environment = environment::store::lock(tx, project_ref, id).await?;
    }
    enqueue_stop(tx, environment, user_id).await
}

/// Interval of the background jobs.
const JOB_INTERVAL: Duration = Duration::from_secs(5);

/// Background job: updates the health of servers with missing heartbeats.
pub(crate) async fn update_server_health(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    let step = || async {
        db.write_as_system("server health", heartbeat::update_health).await?;
        Ok(Progress::Idle)
    };
    worker::run("server health".to_owned(), Schedule::every(JOB_INTERVAL), stop, step).await;
    Ok(())
}

/// Background job: releases the reservations of interrupted project creations.
pub(crate) async fn release_reservations(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    let step = || async {
        let released =
            db.write_as_system("project reservation", reservation::release_expired).await?;
        Ok(Progress::busy_if(released > 0))
    };
    worker::run("project reservations".to_owned(), Schedule::every(JOB_INTERVAL), stop, step).await;
    Ok(())
}
