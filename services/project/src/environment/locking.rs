//! Locks on several environments, in the order of their ids (see `store` for the whole order).

use std::collections::BTreeSet;

use chassis::{Error, Result, Tx};

use project_rules::{
    environment::{Environment, state_machine::Operation},
    task::Task,
    types::{EnvironmentId, ProjectRef},
};

use crate::store;

/// Locks environments of a project, in the order of their ids.
pub(crate) async fn lock_all(
    tx: &mut Tx,
    project: ProjectRef,
    ids: &[EnvironmentId],
) -> Result<Vec<Environment>> {
    let ids: BTreeSet<_> = ids.iter().copied().collect();
    let mut locked = vec![];
    for id in ids {
        locked.push(store::environment::lock(tx, project, id).await?);
    }
    Ok(locked)
}

/// Locks the environment of a task and the source of a clone, if the source still exists. Returns the
/// environment of the task.
pub(crate) async fn lock_for_task(tx: &mut Tx, task: &Task) -> Result<Environment> {
    let ids: BTreeSet<_> = task.clone_source().into_iter().chain([task.environment_id]).collect();
    let mut found = Err(Error::NotFound(EnvironmentId::NOUN));
    for id in ids {
        match store::environment::lock(tx, task.project_ref(), id).await {
            Ok(environment) if id == task.environment_id => found = Ok(environment),
            Ok(_) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    found
}

/// Locks an environment and the other environment of its active clone task, if there is one. Returns the
/// first.
pub(crate) async fn lock_with_clone_peer(
    tx: &mut Tx,
    project: ProjectRef,
    id: EnvironmentId,
) -> Result<Environment> {
    let environment = store::environment::load(tx, project, id).await?;
    let active_before = store::task::active(tx, &environment).await?;
    let involved = |it: &Task| [Some(it.environment_id), it.clone_source()];
    let ids = active_before.iter().flat_map(involved).flatten().chain([id]).collect::<Vec<_>>();
    let locked = lock_all(tx, project, &ids).await?.into_iter().find(|it| it.id == id);
    let locked = locked.ok_or(Error::NotFound(EnvironmentId::NOUN))?;
    // The first read was without locks.
    let active = store::task::active(tx, &locked).await?;
    if active.map(|it| it.id) != active_before.map(|it| it.id) {
        return Err(Error::conflict("another task was enqueued or finished; try again"));
    }
    Ok(locked)
}

/// Locks the environment of a task that is retried. The source of a clone is locked for cloning again, if
/// its state allows it.
pub(crate) async fn lock_for_retry(tx: &mut Tx, task: &Task) -> Result<Environment> {
    let source_id = task.clone_source();
    let ids: Vec<_> = source_id.into_iter().chain([task.environment_id]).collect();
    let mut locked = lock_all(tx, task.project_ref(), &ids).await?;
    if let Some(source) = locked.iter().find(|it| Some(it.id) == source_id) {
        let active = store::task::active(tx, source).await?;
        source.require_allowed(Operation::CloneFrom, active.as_ref())?;
        store::environment::lock_source(tx, source).await?;
    }
    locked.retain(|it| it.id == task.environment_id);
    locked.pop().ok_or(Error::NotFound(EnvironmentId::NOUN))
}
