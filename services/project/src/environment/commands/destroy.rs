//! Destruction of environments.

use chassis::{ProjectGrant, Result, Tx, fold};
use project_rules::{
    environment::{
        Environment, Kind, Refused, State, admission::Initiator, production::ProductionRight,
        state_machine::Operation,
    },
    task::{self, Task, TaskSpec},
    types::EnvironmentId,
};

use super::{delete_project_if_empty, enqueue_task, fail_task};
use crate::{environment::locking, store};

/// Destruction of an environment.
pub(crate) struct DestroySpec<'a> {
    pub(crate) id: EnvironmentId,
    /// Must be the exact name of the environment.
    pub(crate) confirm_name: &'a str,
    /// Allows the destruction of a PRODUCTION environment.
    pub(crate) allow_production: bool,
    /// Deletes only the row if the server is unreachable.
    pub(crate) force: bool,
}

/// A destruction that has begun, or was completed without a task.
pub(crate) struct Destruction {
    pub(crate) environment: Environment,
    /// `None`: the environment is already deleted.
    pub(crate) task: Option<Task>,
}

/// Destroys an environment. With `force`, only its row is deleted if its server is unreachable (PE-37,
/// PE-38).
pub(crate) async fn destroy(
    tx: &mut Tx,
    grant: &ProjectGrant,
    destroy: DestroySpec<'_>,
) -> Result<Destruction> {
    let environment = locking::lock_with_clone_peer(tx, grant.into(), destroy.id).await?;
    if !fold::is_exact_name(destroy.confirm_name, &environment.name) {
        return Err(Refused::WrongName.into());
    }
    if environment.kind == Kind::Production && !destroy.allow_production {
        return Err(Refused::ProductionProtected.into());
    }
    let is_unreachable = !store::server::is_reachable(tx, environment.server_id).await?;
    if destroy.force && is_unreachable && environment.server_id.is_some() {
        return delete_unreachable(tx, environment).await;
    }
    if environment.state == State::Pending && environment.server_id.is_none() {
        return delete_undeployed(tx, environment).await;
    }
    let initiator = Initiator::person(grant, ProductionRight::NotRequired);
    let spec = TaskSpec::new(task::Kind::Destroy);
    let (environment, task) = enqueue_task(tx, environment, spec, initiator).await?;
    Ok(Destruction { environment, task: Some(task) })
}

/// Deletes an environment that was never on a server, so that a runner has nothing to delete.
async fn delete_undeployed(tx: &mut Tx, environment: Environment) -> Result<Destruction> {
    let active = store::task::active(tx, &environment).await?;
    environment.require_allowed(Operation::Destroy, active.as_ref())?;
    let environment = store::environment::delete(tx, environment.delete_undeployed(tx.now)).await?;
    delete_project_if_empty(tx, environment.project_ref()).await?;
    Ok(Destruction { environment, task: None })
}

/// Deletes an environment whose server is unreachable, and fails its active task.
async fn delete_unreachable(tx: &mut Tx, environment: Environment) -> Result<Destruction> {
    let project_ref = environment.project_ref();
    let active = store::task::active(tx, &environment).await?;
    if let Some(task) = &active {
        store::task::lock(tx, environment.org_id, task.id).await?;
    }
    // The deletion below needs this lock. It is taken first, because a weaker one cannot be upgraded
    // without the risk of a deadlock.
    store::project::lock(tx, project_ref).await?;
    if let Some(task) = active {
        let error = "the server of the environment is unreachable, and the environment was deleted";
        fail_task(tx, task, error).await?;
    }
    // The end of the task has changed the environment.
    let environment = store::environment::lock(tx, project_ref, environment.id).await?;
    let environment =
        store::environment::delete(tx, environment.delete_unreachable(tx.now)).await?;
    delete_project_if_empty(tx, project_ref).await?;
    Ok(Destruction { environment, task: None })
}
