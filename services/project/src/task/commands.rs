//! Commands on tasks: the steps of an operation, across tables.

use chassis::{Error, ProjectGrant, Result, Tx};
use project_rules::{
    environment::{Environment, admission::Initiator, production::ProductionRight},
    task::{Cancellation, NotFailed, Outcome, State, Task, TaskSpec},
};

use crate::{
    addon::commands::provision_if_due,
    environment::{
        commands::{FinishedEnvironment, apply_outcome, enqueue_task},
        locking,
    },
    push::commands::deploy_pending_push,
    store,
};

/// Requests the cancellation of a task for a person: at once if it is queued, otherwise by its runner.
pub(super) async fn request_cancellation(tx: &mut Tx, task: &Task) -> Result<Task> {
    let environment = locking::lock_for_task(tx, task).await;
    let task = store::task::lock(tx, task.org_id, task.id).await?;
    match task.cancel(tx.now)? {
        Cancellation::Requested(requested) => store::task::save(tx, requested).await,
        Cancellation::Cancelled(task) => {
            finish_task(tx, environment?, task.clone(), Outcome::Cancelled).await?;
            Ok(task)
        }
    }
}

/// Refuses the retry of a task that has not failed.
pub(super) fn require_failed(task: &Task) -> Result<()> {
    if task.state == State::Failed { Ok(()) } else { Err(Error::from(NotFailed)) }
}

/// Enqueues a retry of a failed task.
pub(super) async fn retry(
    tx: &mut Tx,
    grant: &ProjectGrant,
    failed: &Task,
    right: ProductionRight,
) -> Result<Task> {
    let environment = locking::lock_for_retry(tx, failed).await?;
    let initiator = Initiator::person(grant, right);
    let (_, task) = enqueue_task(tx, environment, TaskSpec::retry(failed), initiator).await?;
    Ok(task)
}

/// Applies the end of a task, and enqueues the task that waited for it: a deployment of a push, or the
/// provisioning of add-ons.
pub(crate) async fn finish_task(
    tx: &mut Tx,
    environment: Environment,
    task: Task,
    outcome: Outcome,
) -> Result<()> {
    let project_ref = environment.project_ref();
    let id = environment.id;
    if let FinishedEnvironment::Destroyed = apply_outcome(tx, environment, task, outcome).await? {
        return Ok(());
    }
    deploy_pending_push(tx, project_ref, id).await?;
    provision_if_due(tx, project_ref, id).await
}
