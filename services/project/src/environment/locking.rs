//! Locks on several environments. All operations lock rows in one order, so that no two wait for each other:
//! environments by id, then their tasks, the project, the server, and extra services. What counts for the
//! whole organization (an advisory lock) comes before them.

use std::collections::BTreeSet;

use chassis::{Error, OrgId, ProjectId, Result, Tx};

use super::{Environment, EnvironmentId, machine::Operation, store};
use crate::task::{self, Task};

/// Locks environments.
pub(crate) async fn many(
    tx: &mut Tx,
    place: (OrgId, ProjectId),
    ids: &[EnvironmentId],
) -> Result<Vec<Environment>> {
    let ids: BTreeSet<_> = ids.iter().copied().collect();
    let mut locked = vec![];
    for id in ids {
        locked.push(store::lock(tx, place, id).await?);
    }
    Ok(locked)
}

/// Locks the environment of a task and, of a copy, its source, if that is still there.
pub(crate) async fn of_task(tx: &mut Tx, task: &Task) -> Result<Environment> {
    let place = (task.org_id, task.project_id);
    let ids: BTreeSet<_> = task.source_of_copy().into_iter().chain([task.environment_id]).collect();
    let mut found = Err(Error::NotFound(EnvironmentId::NOUN));
    for id in ids {
        match store::lock(tx, place, id).await {
            Ok(it) if id == task.environment_id => found = Ok(it),
            Ok(_) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    found
}

/// Locks an environment and, if a copy from it or into it goes on, the other one.
pub(crate) async fn with_copy(
    tx: &mut Tx,
    place: (OrgId, ProjectId),
    id: EnvironmentId,
) -> Result<Environment> {
    let environment = store::load(tx, place, id).await?;
    let before = task::store::active(tx, &environment).await?;
    let involved = |it: &Task| [Some(it.environment_id), it.source_of_copy()];
    let ids = before.iter().flat_map(involved).flatten().chain([id]).collect::<Vec<_>>();
    let locked = many(tx, place, &ids).await?.into_iter().find(|it| it.id == id);
    let locked = locked.ok_or(Error::NotFound(EnvironmentId::NOUN))?;
    let now = task::store::active(tx, &locked).await?;
    if now.map(|it| it.id) != before.map(|it| it.id) {
        return Err(Error::conflict("another task began or ended meanwhile; try again"));
    }
    Ok(locked)
}

/// Locks the environment of a task that is repeated; if it is a copy, its source stands still again, if that
/// allows it.
pub(crate) async fn to_repeat(tx: &mut Tx, task: &Task) -> Result<Environment> {
    let place = (task.org_id, task.project_id);
    let source_id = task.source_of_copy();
    let ids: Vec<_> = source_id.into_iter().chain([task.environment_id]).collect();
    let mut locked = many(tx, place, &ids).await?;
    if let Some(source) = locked.iter().find(|it| Some(it.id) == source_id) {
        let active = task::store::active(tx, source).await?;
        source.admit(Operation::CloneFrom, active.as_ref())?;
        store::hold(tx, source).await?;
    }
    locked.retain(|it| it.id == task.environment_id);
    locked.pop().ok_or(Error::NotFound(EnvironmentId::NOUN))
}
