//! Reactions to events of identity, and background jobs.

use std::time::Duration;

use api::{identity, project as pb};
use chassis::{Changed, Db, EventTarget, OrgId, Result, Tx, UserId};
use project_rules::{
    environment::Environment, organization::Status, task::Kind, types::ProjectRef, variable::Vault,
};
use tokio_util::sync::CancellationToken;
use worker::{Progress, Schedule};

use crate::{
    alert::evaluate::open_unreachable,
    environment::commands::{enqueue_stop, fail_task},
    project::{commands, creation::abandon_expired},
    server::health::update_health,
    store,
};

/// Stores the registration of a project that does not exist yet as pending (see `project::creation`).
pub(crate) async fn project_registered(
    tx: &mut Tx,
    event: identity::ProjectRegistered,
) -> Result<()> {
    let Some(grant) = event.after else { return Ok(()) };
    let project =
        ProjectRef { org_id: grant.org_id.parse()?, project_id: grant.project_id.parse()? };
    if store::project::exists(tx, project).await? {
        return Ok(());
    }
    store::registration::insert_pending(tx, project).await
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
    for environment in store::environment::lock_of_organization(tx, org_id).await? {
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

/// Records the status of an organization. Runners find tasks that are allowed again by their next poll.
/// `false`: a newer revision is already recorded.
async fn record_status(tx: &mut Tx, organization: &identity::Organization) -> Result<bool> {
    let is_blocked = organization.subscription() == identity::Subscription::Blocked;
    let status = Status::from_flags(organization.delete_time.is_some(), is_blocked);
    let org_id = organization.id.parse()?;
    store::organization::set_status(tx, org_id, organization.revision, status).await
}

/// Deletes everything that a purged organization has here.
pub(crate) async fn organization_purged(
    tx: &mut Tx,
    event: identity::OrganizationPurged,
) -> Result<()> {
    let Some(organization) = event.before else { return Ok(()) };
    store::organization::purge(tx, organization.id.parse()?).await
}

/// Error of tasks that fail because their organization was deleted.
const ORGANIZATION_DELETED: &str = "the organization was deleted";

/// Fails the active task of a locked environment and enqueues the stop of its program. Returns true if
/// anything had to be ended.
async fn end_programs(tx: &mut Tx, environment: Environment, user_id: UserId) -> Result<bool> {
    let project_ref = environment.project_ref();
    let id = environment.id;
    // The end of a clone task of an earlier environment has changed this one, if it was the source.
    let mut environment = store::environment::lock(tx, project_ref, id).await?;
    if let Some(task) = store::task::active(tx, &environment).await? {
        if matches!(task.kind, Kind::Stop | Kind::Destroy) {
            return Ok(true);
        }
        let task = store::task::lock(tx, project_ref.org_id, task.id).await?;
        fail_task(tx, task, ORGANIZATION_DELETED).await?;
        environment = store::environment::lock(tx, project_ref, id).await?;
    }
    enqueue_stop(tx, environment, user_id).await
}

/// Interval of the background jobs.
const JOB_INTERVAL: Duration = Duration::from_secs(5);

/// Background job: updates the health of servers with missing heartbeats, and opens their alerts.
pub(crate) async fn update_server_health(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    let step = || async {
        db.write_as_system("server health", update_health).await?;
        db.write_as_system("server alerts", open_unreachable).await?;
        Ok(Progress::Idle)
    };
    worker::run("server health".to_owned(), Schedule::every(JOB_INTERVAL), stop, step).await;
    Ok(())
}

/// Background job: abandons the registrations of interrupted project creations.
pub(crate) async fn abandon_registrations(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    let step = || async {
        let expired = db.write_as_system("project registration", abandon_expired).await?;
        Ok(Progress::busy_if(expired > 0))
    };
    let name = "project registrations".to_owned();
    worker::run(name, Schedule::every(JOB_INTERVAL), stop, step).await;
    Ok(())
}

/// Background job: moves credentials in the repository URLs of older versions into sealed tokens.
pub(crate) async fn move_credentials(
    db: Db,
    vault: Vault,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let step = || async {
        let move_one = async |tx: &mut Tx| commands::move_credential(tx, &vault).await;
        Ok(Progress::busy_if(db.write_as_system("repository credentials", move_one).await?))
    };
    let name = "repository credentials".to_owned();
    worker::run(name, Schedule::every(JOB_INTERVAL), stop, step).await;
    Ok(())
}
