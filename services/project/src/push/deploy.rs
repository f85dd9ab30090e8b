//! What follows from a push: environments that follow the branch are deployed; one that is busy waits for
//! its turn, and only the newest push counts.

use api::project as pb;
use chassis::{About, Changed, OrgId, ProjectId, Result, Tx, UserId};

use super::{Push, store};
use crate::{
    environment::{self, Environment},
    server,
    task::{self, Cause, Kind, Order},
};

/// Who triggers what a push deploys.
const NOBODY: UserId = UserId(uuid::Uuid::nil());

/// Deploys what follows the branch, or remembers it.
pub(crate) async fn follow(
    tx: &mut Tx,
    place: (OrgId, ProjectId),
    push: &Push,
) -> Result<pb::ReceivePushResponse> {
    let mut answer = pb::ReceivePushResponse::default();
    let mut ids = vec![];
    for id in store::following(tx, place, &push.branch).await? {
        let environment = environment::store::lock(tx, place, id).await?;
        let name = String::from(environment.id);
        if begin(tx, environment).await? {
            answer.deployments += 1;
        } else {
            store::remember(tx, place.0, id, &push.commit).await?;
            answer.waiting += 1;
        }
        ids.push(name);
    }
    if ids.is_empty() {
        "no environment follows this branch with auto_deploy".clone_into(&mut answer.ignored);
    }
    let event = pb::PushReceived {
        project_id: place.1.into(),
        branch: push.branch.clone(),
        commit: push.commit.clone(),
        pusher: push.pusher.clone(),
        environment_ids: ids,
    };
    let about = About::object("project", place.1, "").of(place.0).in_project(place.1);
    tx.emit(Changed::new((), &event, about));
    Ok(answer)
}

/// Deploys what was pushed while an environment was busy, now that it is not.
pub(crate) async fn catch_up(
    tx: &mut Tx,
    place: (OrgId, ProjectId),
    id: environment::EnvironmentId,
) -> Result<()> {
    if !store::is_remembered(tx, place.0, id).await? {
        return Ok(());
    }
    let environment = environment::store::lock(tx, place, id).await?;
    if begin(tx, environment).await? {
        store::remember(tx, place.0, id, "").await?;
    }
    Ok(())
}

/// Queues a deployment, unless something else goes on, the state does not allow it, or the server is away.
async fn begin(tx: &mut Tx, it: Environment) -> Result<bool> {
    let active = task::store::active(tx, &it).await?;
    if server::store::require_reachable(tx, it.server_id).await.is_err() {
        tracing::warn!(environment = %it.id, "a push waits: the server does not call");
        return Ok(false);
    }
    let order = Order::plain(Kind::Deploy);
    match it.begin(order, (NOBODY, Cause::Push), active.as_ref(), tx.now) {
        Ok(begun) => environment::store::begin(tx, begun).await.map(|_| true),
        Err(_) => Ok(false),
    }
}
