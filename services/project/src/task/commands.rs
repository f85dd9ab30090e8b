//! Commands on tasks: the steps of an operation, across tables.

use chassis::{Error, ProjectGrant, Result, Tx};
use uuid::Uuid;

use super::{
    Cancellation, Kind, NotFailed, Outcome, State, Task, TaskId, TaskSpec,
    lease::{LeaseOutcome, Progress},
    store,
};
use crate::{
    addon,
    environment::{
        self, Environment,
        commands::{Initiator, enqueue_task},
        locking,
        production::ProductionRight,
    },
    project::{self, Project},
    push,
    server::{AuthenticatedRunner, ServerId},
    variable::{self, Variable},
};

/// Requests the cancellation of a task for a person: at once if it is queued, otherwise by its runner.
pub(super) async fn request_cancellation(tx: &mut Tx, task: &Task) -> Result<Task> {
    let environment = locking::lock_for_task(tx, task).await;
    let task = store::lock(tx, task.org_id, task.id).await?;
    match task.cancel(tx.now)? {
        Cancellation::Requested(requested) => store::save(tx, requested).await,
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

/// Task and lease by which a runner identifies itself as the owner of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRef {
    pub(crate) task_id: TaskId,
    pub(crate) lease_id: Uuid,
}

/// Stores the progress and log lines that a runner reports.
pub(super) async fn report_progress(
    tx: &mut Tx,
    server_id: ServerId,
    lease: LeaseRef,
    progress: Progress,
    log_lines: &[String],
) -> Result<Task> {
    let org_id = store::find(tx, lease.task_id, server_id).await?.org_id;
    let task = store::lock(tx, org_id, lease.task_id).await?;
    let mut task = task.report(lease.lease_id, progress, tx.now)?;
    store::append_log(tx, &mut task, log_lines).await?;
    store::update(tx, &task).await?;
    Ok(task)
}

/// End of a task, as its runner reports it.
pub(super) struct Report {
    pub(super) outcome: Outcome,
    /// First line of the message of the deployed commit.
    pub(super) commit_subject: String,
    pub(super) commit_author: String,
}

/// Finishes a task for the runner that has leased it.
pub(super) async fn finish_leased_task(
    tx: &mut Tx,
    server_id: ServerId,
    lease: LeaseRef,
    report: Report,
) -> Result<()> {
    let found = store::find(tx, lease.task_id, server_id).await?;
    let environment = locking::lock_for_task(tx, &found).await?;
    let task = store::lock(tx, found.org_id, lease.task_id).await?;
    let mut task = task.finish_leased(lease.lease_id, &report.outcome, tx.now)?;
    task.commit_subject = report.commit_subject;
    task.commit_author = report.commit_author;
    finish_task(tx, environment, task, report.outcome).await
}

/// Applies the end of a task, and enqueues the task that waited for it: a deployment of a push, or the
/// provisioning of add-ons.
async fn finish_task(
    tx: &mut Tx,
    environment: Environment,
    task: Task,
    outcome: Outcome,
) -> Result<()> {
    let project_ref = environment.project_ref();
    let id = environment.id;
    if let Finished::Destroyed = apply_end(tx, environment, task, outcome).await? {
        return Ok(());
    }
    push::commands::deploy_pending_push(tx, project_ref, id).await?;
    addon::commands::provision_if_due(tx, project_ref, id).await
}

/// Fails a task because its environment, or the source of its clone, is being removed. No waiting task is
/// enqueued.
pub(crate) async fn cancel_task(tx: &mut Tx, task: Task, error: &str) -> Result<()> {
    let environment = environment::store::lock(tx, task.project_ref(), task.environment_id).await?;
    let (task, outcome) = task.fail(error, tx.now);
    apply_end(tx, environment, task, outcome).await?;
    Ok(())
}

/// Environment of a finished task.
enum Finished {
    /// The environment remains.
    Remaining,
    /// The environment was destroyed by the task.
    Destroyed,
}

/// Applies the end of a task to its environment, the source of a clone, the deployment that a rollback
/// replaces, the add-ons, and a project that is being deleted.
async fn apply_end(
    tx: &mut Tx,
    environment: Environment,
    task: Task,
    outcome: Outcome,
) -> Result<Finished> {
    let project_ref = environment.project_ref();
    // The project is locked before the rows below. A destroyed environment may complete the deletion of its
    // project, which needs the stronger lock.
    if task.kind == Kind::Destroy {
        project::store::lock(tx, project_ref).await?;
    } else {
        project::store::load(tx, project_ref).await?;
    }
    if task.kind == Kind::Clone {
        environment::store::unlock_source(tx, &task).await?;
    }
    let is_rolled_back = task.kind == Kind::Rollback && matches!(outcome, Outcome::Completed(_));
    if let Some(replaced) = environment.deployment_id.filter(|_| is_rolled_back) {
        store::mark_rolled_back(tx, project_ref.org_id, replaced).await?;
    }
    addon::commands::apply_task_outcome(tx, &environment, &task, &outcome).await?;
    let finished = environment.finish_task(task, outcome, tx.now);
    let is_destroyed = finished.state().0.state == environment::State::Deleted;
    environment::store::finish_task(tx, finished).await?;
    if !is_destroyed {
        return Ok(Finished::Remaining);
    }
    project::deletion::delete_if_empty(tx, project_ref).await?;
    Ok(Finished::Destroyed)
}

/// A leased task, with everything that its runner needs.
pub(super) struct LeasedTask {
    pub(super) task: Task,
    pub(super) environment: Environment,
    pub(super) project: Project,
    /// Source of a clone.
    pub(super) source: Option<Environment>,
    pub(super) variables: Vec<Variable>,
    pub(super) addons: Vec<addon::commands::DesiredAddon>,
}

/// Leases the oldest task that the runner may work on. `None`: there is none, or another runner has leased
/// it.
pub(super) async fn lease_task(
    tx: &mut Tx,
    runner: AuthenticatedRunner,
) -> Result<Option<LeasedTask>> {
    let Some(candidate) = store::next_leasable(tx, runner).await? else { return Ok(None) };
    let mut environment = locking::lock_for_task(tx, &candidate).await?;
    let task = store::active(tx, &environment).await?;
    let Some(mut task) = task.filter(|it| it.is_leasable(tx.now)) else { return Ok(None) };
    let is_assigned = environment.server_id.is_some();
    if !is_assigned {
        // The environment stays on the first shared server that leases a task of it.
        environment.server_id = Some(runner.server_id);
        task.server_id = Some(runner.server_id);
    }
    let task = match task.lease(tx.now) {
        LeaseOutcome::DeploymentStarted(changed) => store::save(tx, changed).await?,
        LeaseOutcome::Leased(task) => {
            store::update(tx, &task).await?;
            task
        }
        LeaseOutcome::Finished(task, outcome) => {
            finish_task(tx, environment, task, outcome).await?;
            return Ok(None);
        }
    };
    let variables = variable::store::load(tx, &environment).await?;
    let project = project::store::load(tx, task.project_ref()).await?;
    let source = match task.clone_source() {
        Some(id) => Some(environment::store::load(tx, task.project_ref(), id).await?),
        None => None,
    };
    let addons = addon::commands::desired_addons(tx, &environment).await?;
    if !is_assigned {
        environment::store::assign_server(tx, &environment, runner.server_id).await?;
    }
    Ok(Some(LeasedTask { task, environment, project, source, variables, addons }))
}
