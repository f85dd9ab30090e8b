//! What this service does when something happened elsewhere.

use api::{identity, project as pb};
use chassis::{About, Changed, Db, OrgId, Result, Tx, UserId};
use tokio_util::sync::CancellationToken;

use crate::{
    environment::{self, Environment, admission},
    organization::{self, Standing},
    project::store,
    server::heartbeat,
    task::{self, Kind, runner},
};

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
    tx.emit(Changed::new((), &event, about));
    Ok(())
}

/// What a deleted organization runs here ends; its projects stay until the purge.
pub(crate) async fn organization_deleted(
    tx: &mut Tx,
    event: identity::OrganizationDeleted,
) -> Result<()> {
    let Some(it) = event.after else { return Ok(()) };
    let (org_id, by): (OrgId, _) = (it.id.parse()?, it.owner_id.parse()?);
    if !note_standing(tx, &it).await? {
        return Ok(());
    }
    let mut stopping = 0;
    // All of them, so that whatever is beginning in one of them ends first and is seen.
    for environment in environment::store::lock_of_organization(tx, org_id).await? {
        stopping += i32::from(stop(tx, environment, by).await?);
    }
    let event = pb::OrganizationClosed {
        org_id: it.id,
        revision: it.revision,
        stopping_environments: stopping,
    };
    let about = About::object("organization", org_id, it.name).of(org_id);
    tx.emit(Changed::new((), &event, about));
    Ok(())
}

/// A deleted organization came back. Nothing starts by itself.
pub(crate) async fn organization_restored(
    tx: &mut Tx,
    event: identity::OrganizationRestored,
) -> Result<()> {
    let Some(it) = event.after else { return Ok(()) };
    note_standing(tx, &it).await.map(|_| ())
}

/// In a blocked organization nothing starts by itself; what runs goes on (PL-4).
pub(crate) async fn subscription_changed(
    tx: &mut Tx,
    event: identity::SubscriptionChanged,
) -> Result<()> {
    let Some(it) = event.after else { return Ok(()) };
    note_standing(tx, &it).await.map(|_| ())
}

/// Notes the standing of an organization; `false` if a newer one is known. Wakes runners, for which tasks
/// may have waited.
async fn note_standing(tx: &mut Tx, it: &identity::Organization) -> Result<bool> {
    let is_blocked = it.subscription() == identity::Subscription::Blocked;
    let standing = Standing::of(it.delete_time.is_some(), is_blocked);
    tx.wake();
    organization::store::advance(tx, it.id.parse()?, it.revision, standing).await
}

/// A deleted organization is gone for good.
pub(crate) async fn organization_purged(
    tx: &mut Tx,
    event: identity::OrganizationPurged,
) -> Result<()> {
    let Some(it) = event.before else { return Ok(()) };
    organization::store::purge(tx, it.id.parse()?).await
}

/// Why a deployment ends before its time.
const DELETED: &str = "the organization was deleted";

/// Ends what a locked environment runs, and what it is about to run. Answers whether anything was to be
/// ended.
async fn stop(tx: &mut Tx, mut it: Environment, by: UserId) -> Result<bool> {
    let place = (it.org_id, it.project_id);
    // A copy that was called off for the other one has changed this one.
    it = environment::store::lock(tx, place, it.id).await?;
    if let Some(task) = task::store::active(tx, &it).await? {
        if matches!(task.kind, Kind::Stop | Kind::Destroy) {
            return Ok(true);
        }
        let task = task::store::lock(tx, place.0, task.id).await?;
        runner::call_off(tx, &it, task, DELETED).await?;
        it = environment::store::lock(tx, place, it.id).await?;
    }
    // Even after a failed deployment an earlier one may run.
    admission::shut(tx, it, by).await
}

/// How often silent servers are looked for.
const LOOK: std::time::Duration = std::time::Duration::from_secs(5);

/// Tells of servers whose runners went silent, until `stop`.
pub(crate) async fn sweep(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        if let Err(error) = db.write_as_system("silent servers", heartbeat::sweep).await {
            tracing::warn!(%error, "silent servers were not looked for");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    Ok(())
}
