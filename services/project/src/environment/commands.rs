//! Commands on environments: the steps of an operation, across tables. Every task of an environment is
//! enqueued by this module, for all initiators.

pub(crate) mod create;
pub(crate) mod destroy;
mod finish;

use api::project as pb;
use chassis::{Error, OrgId, ProjectGrant, Result, Tx, UserId};
use project_rules::{
    addon::Addon,
    environment::{
        Environment, Kind, PauseReason, Promotion, Refused, admission::Initiator, edit::Patch,
        production::ProductionRight, state_machine::Operation,
    },
    project::{self, Project},
    task::{self, Task, TaskSpec},
    types::{EnvironmentId, ProjectRef, TaskId},
    variable::{self, AddonVariable, Change, Vault, wire::effective_variables},
};

pub(crate) use self::finish::{
    FinishedEnvironment, apply_outcome, delete_project_if_empty, fail_task,
};
use crate::store;

/// Enqueues a task in a locked environment, if its state, the project, the organization and the server
/// allow it.
pub(crate) async fn enqueue_task(
    tx: &mut Tx,
    environment: Environment,
    spec: TaskSpec,
    initiator: Initiator,
) -> Result<(Environment, Task)> {
    let active = store::task::active(tx, &environment).await?;
    environment.require_allowed(Operation::of_task(spec.kind), active.as_ref())?;
    require_admission(tx, &environment, &spec, initiator).await?;
    let origin = initiator.task_origin();
    let enqueued = environment.enqueue_task(spec, origin, active.as_ref(), tx.now)?;
    store::environment::enqueue_task(tx, enqueued).await
}

/// Enqueues the stop of a locked environment whose organization was deleted. `false`: no program can be
/// running.
pub(crate) async fn enqueue_stop(
    tx: &mut Tx,
    environment: Environment,
    user_id: UserId,
) -> Result<bool> {
    let Some(enqueued) = environment.enqueue_stop(user_id, tx.now) else { return Ok(false) };
    store::environment::enqueue_task(tx, enqueued).await?;
    Ok(true)
}

/// Refuses a task whose conditions other than the state of its environment are not met.
async fn require_admission(
    tx: &mut Tx,
    environment: &Environment,
    spec: &TaskSpec,
    initiator: Initiator,
) -> Result<()> {
    let facts = store::admission::admission_facts(tx, environment, spec).await?;
    facts.admit(environment, spec.kind, initiator, tx.now)
}

/// Loads a project and locks it against deletion; refuses one that is being deleted.
pub(crate) async fn require_active_project(tx: &mut Tx, project: ProjectRef) -> Result<Project> {
    let project = store::project::load(tx, project).await?;
    match project.state {
        project::State::Active => Ok(project),
        project::State::Deleting => Err(Refused::ProjectDeleting.into()),
    }
}

/// Refuses a change of a locked environment if its project is being deleted, or if the change affects
/// PRODUCTION and the caller has no right to it.
pub(crate) async fn require_change_allowed(
    tx: &mut Tx,
    environment: &Environment,
    affects_production: bool,
    right: ProductionRight,
) -> Result<()> {
    let project = require_active_project(tx, environment.project_ref()).await?;
    Ok(project.production_deploy_min_role.require_right(affects_production, right)?)
}

/// Update of an environment.
pub(super) struct Update<'a> {
    pub(super) id: EnvironmentId,
    pub(super) patch: Patch,
    pub(super) etag: &'a str,
    pub(super) affects_production: bool,
    pub(super) right: ProductionRight,
}

/// Updates the fields of an environment that the patch names.
pub(super) async fn update(
    tx: &mut Tx,
    grant: &ProjectGrant,
    update: Update<'_>,
) -> Result<Environment> {
    let Update { id, patch, etag, affects_production, right } = update;
    let environment = store::environment::lock(tx, grant.into(), id).await?;
    require_change_allowed(tx, &environment, affects_production, right).await?;
    require_capacity_for_update(tx, &environment, &patch).await?;
    let disk_used_bytes = store::report::disk_used_bytes(tx, environment.id).await?;
    let unchanged = environment.clone();
    match environment.update(patch, etag, disk_used_bytes, tx.now)? {
        Some(changed) => store::environment::update(tx, changed).await,
        None => Ok(unchanged),
    }
}

/// Refuses an update for which the server of the environment, or its new one, has too little capacity.
async fn require_capacity_for_update(
    tx: &mut Tx,
    environment: &Environment,
    patch: &Patch,
) -> Result<()> {
    let Some(id) = patch.server_id.or(environment.server_id) else { return Ok(()) };
    if patch.resources.is_none() && patch.server_id.is_none() {
        return Ok(());
    }
    let server = store::server::lock_for_placement(tx, environment.org_id, id).await?;
    if patch.server_id.is_some() {
        server.require_reachable(tx.now)?;
    }
    let allocated = store::server::allocated(tx, id, Some(environment.id)).await?;
    let requested = patch.resources.unwrap_or(environment.resources());
    Ok(server.require_capacity(requested, allocated)?)
}

/// Changes the variables of a locked environment. Returns all variables that take effect.
pub(super) async fn set_variables(
    tx: &mut Tx,
    environment: &Environment,
    change: &Change,
    right: ProductionRight,
    vault: &Vault,
) -> Result<Vec<pb::VariableEntry>> {
    let affects_production = environment.kind == Kind::Production;
    require_change_allowed(tx, environment, affects_production, right).await?;
    let existing = store::variable::load(tx, environment).await?;
    let addons = store::addon::of_project(tx, environment.project_ref()).await?;
    let of_addons = addon_variables(&addons)?;
    let changed = variable::apply(environment, change, &existing, &of_addons, vault, tx.now)?;
    store::variable::apply(tx, environment, changed).await?;
    let variables = store::variable::load(tx, environment).await?;
    Ok(effective_variables(&variables, &of_addons))
}

/// Returns the variables that add-ons set.
pub(super) fn addon_variables(addons: &[Addon]) -> Result<Vec<AddonVariable>> {
    addons.iter().filter_map(|it| it.variable().transpose()).collect()
}

/// Deploys the commit of a STAGING environment to PRODUCTION (PE-44).
pub(super) async fn promote(
    tx: &mut Tx,
    grant: &ProjectGrant,
    promotion: Promotion,
    right: ProductionRight,
) -> Result<Task> {
    let project_ref = ProjectRef::from(grant);
    let source = store::environment::load(tx, project_ref, promotion.source_id).await?;
    if source.kind != Kind::Staging {
        return Err(Error::invalid("environment_id", "must be a STAGING environment"));
    }
    source.require_allowed(Operation::PromoteFrom, None)?;
    let target_id = match promotion.target_id {
        Some(id) => id,
        None => store::environment::production_id(tx, project_ref).await?.ok_or_else(|| {
            let description = "must be set: the project has no PRODUCTION environment";
            Error::invalid("target_environment_id", description)
        })?,
    };
    let target = store::environment::lock(tx, project_ref, target_id).await?;
    if target.kind != Kind::Production {
        let description = "must be a PRODUCTION environment";
        return Err(Error::invalid("target_environment_id", description));
    }
    let spec = TaskSpec {
        branch: Some(source.branch),
        commit: source.commit,
        source_environment_id: Some(source.id),
        ..TaskSpec::new(task::Kind::Promote)
    };
    let (_, task) = enqueue_task(tx, target, spec, Initiator::person(grant, right)).await?;
    Ok(task)
}

/// Rolls an environment back to an earlier successful deployment: the given one, or the newest whose release
/// differs from the current one (PE-33).
pub(super) async fn rollback(
    tx: &mut Tx,
    grant: &ProjectGrant,
    id: EnvironmentId,
    deployment_id: Option<TaskId>,
    right: ProductionRight,
) -> Result<Task> {
    let environment = store::environment::lock(tx, grant.into(), id).await?;
    let earlier = store::task::earlier_deployment(tx, &environment, deployment_id).await?;
    let active = store::task::active(tx, &environment).await?;
    environment.require_allowed(Operation::Rollback, active.as_ref())?;
    let earlier = earlier.ok_or(Refused::NoEarlierDeployment)?;
    let spec = TaskSpec {
        branch: Some(earlier.branch),
        commit: earlier.commit,
        modules: earlier.modules,
        deployment_id: Some(earlier.id),
        ..TaskSpec::new(task::Kind::Rollback)
    };
    let (_, task) = enqueue_task(tx, environment, spec, Initiator::person(grant, right)).await?;
    Ok(task)
}

/// Suspends the running environments of an organization for the platform. Returns how many.
pub(super) async fn suspend(tx: &mut Tx, org_id: OrgId, reason: PauseReason) -> Result<i32> {
    let mut suspended_count = 0;
    for environment in store::environment::lock_of_organization(tx, org_id).await? {
        let active = store::task::active(tx, &environment).await?;
        let Some(suspended) = environment.suspend(reason, active.as_ref(), tx.now) else {
            continue;
        };
        let event_id = suspended.event_id();
        let environment = store::environment::update(tx, suspended).await?;
        // An environment that a person has paused needs no task: its program is frozen already.
        if environment.resumes {
            let pause = TaskSpec::new(task::Kind::Pause);
            let task = environment.new_task(pause, Initiator::Platform.task_origin(), tx.now);
            store::task::insert(tx, &task, event_id).await?;
        }
        suspended_count += 1;
    }
    Ok(suspended_count)
}

/// Lifts the suspensions of an organization that have this reason, and resumes the programs that ran before.
/// Returns how many suspensions were lifted.
pub(super) async fn lift_suspensions(
    tx: &mut Tx,
    org_id: OrgId,
    reason: PauseReason,
) -> Result<i32> {
    let mut lifted_count = 0;
    for environment in store::environment::lock_of_organization(tx, org_id).await? {
        if environment.pause_reason != Some(reason) {
            continue;
        }
        let resumes = environment.resumes;
        let environment =
            store::environment::update(tx, environment.lift_suspension(tx.now)).await?;
        lifted_count += 1;
        if resumes {
            let resume = TaskSpec::new(task::Kind::Resume);
            match enqueue_task(tx, environment, resume, Initiator::Platform).await {
                // If the task is refused, the environment stays paused, and a person can resume it.
                Ok(_) | Err(Error::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(lifted_count)
}
