//! End of a task: its effects on the environment, the add-ons and the project.

use chassis::{Result, Tx};
use project_rules::{
    addon::State as InstanceState,
    environment::{Environment, State},
    project,
    task::{Kind, Outcome, Task},
    types::{AddonId, ProjectRef},
};

use crate::store;

/// Fails a task because its environment, or the source of its clone, is being removed. No waiting task is
/// enqueued.
pub(crate) async fn fail_task(tx: &mut Tx, task: Task, error: &str) -> Result<()> {
    let environment = store::environment::lock(tx, task.project_ref(), task.environment_id).await?;
    let (task, outcome) = task.fail(error, tx.now);
    apply_outcome(tx, environment, task, outcome).await?;
    Ok(())
}

/// Environment after the end of a task.
pub(crate) enum FinishedEnvironment {
    /// The environment remains.
    Remaining,
    /// The environment was destroyed by the task.
    Destroyed,
}

/// Applies the outcome of a task to its environment, the source of a clone, the deployment that a rollback
/// replaces, the add-ons, and a project that is being deleted.
pub(crate) async fn apply_outcome(
    tx: &mut Tx,
    environment: Environment,
    task: Task,
    outcome: Outcome,
) -> Result<FinishedEnvironment> {
    let project_ref = environment.project_ref();
    // The project is locked before the rows below. A destroyed environment may complete the deletion of its
    // project, which needs the stronger lock.
    if task.kind == Kind::Destroy {
        store::project::lock(tx, project_ref).await?;
    } else {
        store::project::load(tx, project_ref).await?;
    }
    if task.kind == Kind::Clone {
        store::environment::unlock_source(tx, &task).await?;
    }
    let is_rolled_back = task.kind == Kind::Rollback && matches!(outcome, Outcome::Completed(_));
    if let Some(replaced) = environment.deployment_id.filter(|_| is_rolled_back) {
        store::task::mark_rolled_back(tx, project_ref.org_id, replaced).await?;
    }
    apply_to_addons(tx, &environment, &task, &outcome).await?;
    let finished = environment.finish_task(task, outcome, tx.now);
    let is_destroyed = finished.state().0.state == State::Deleted;
    store::environment::finish_task(tx, finished).await?;
    if !is_destroyed {
        return Ok(FinishedEnvironment::Remaining);
    }
    delete_project_if_empty(tx, project_ref).await?;
    Ok(FinishedEnvironment::Destroyed)
}

/// Applies the outcome of a task to the instances of add-ons in its environment.
async fn apply_to_addons(
    tx: &mut Tx,
    environment: &Environment,
    task: &Task,
    outcome: &Outcome,
) -> Result<()> {
    let provisions = task.kind.is_deployment()
        || matches!(
            task.kind,
            Kind::Start | Kind::Restart | Kind::Clone | Kind::Provision | Kind::UpdateModules
        );
    if !provisions {
        return Ok(());
    }
    for mut instance in store::addon::instances_of(tx, environment).await? {
        match (outcome, instance.state) {
            (Outcome::Completed(_), InstanceState::Removing) => {
                store::addon::delete_instance(tx, environment.org_id, &instance).await?;
                delete_if_unused(tx, environment.project_ref(), instance.addon_id).await?;
            }
            (Outcome::Completed(_), _) => {
                instance.state = InstanceState::Ready;
                instance.error_message = String::new();
                store::addon::upsert_instance(tx, environment.org_id, &instance).await?;
            }
            (Outcome::Failed { error }, InstanceState::Waiting) if task.kind == Kind::Provision => {
                instance.state = InstanceState::Error;
                instance.error_message.clone_from(error);
                store::addon::upsert_instance(tx, environment.org_id, &instance).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Deletes an add-on that is being detached and has no instances left.
async fn delete_if_unused(tx: &mut Tx, project: ProjectRef, id: AddonId) -> Result<()> {
    let addon = store::addon::lock(tx, project, id).await?;
    if addon.removing && store::addon::count_instances(tx, &addon).await? == 0 {
        store::addon::delete(tx, addon.detach()).await?;
    }
    Ok(())
}

/// Deletes a project that is being deleted and has no environments left; otherwise does nothing.
pub(crate) async fn delete_project_if_empty(tx: &mut Tx, project: ProjectRef) -> Result<()> {
    let project = store::project::lock(tx, project).await?;
    if project.state != project::State::Deleting || project.environment_count > 0 {
        return Ok(());
    }
    store::project::delete(tx, project.delete()).await
}
