//! Commands on environments. Every task of an environment is enqueued by this module, for all initiators.

pub(crate) mod create;
pub(crate) mod destroy;

use chassis::{Error, OrgId, ProjectGrant, Result, Tx, UserId};

use super::{
    Environment, EnvironmentId, Kind, PauseReason, Refused,
    edit::Patch,
    production::{self, ProductionRight},
    state_machine::Operation,
    store,
};
use crate::{
    organization::{self, Status},
    project::{self, Project, ProjectRef},
    server,
    task::{self, Cause, Task, TaskId, TaskOrigin, TaskSpec},
};

/// Initiator of a task.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Initiator {
    /// A person with the permission. Identity has also checked the status of the organization.
    Person { user_id: UserId, right: ProductionRight },
    /// A push webhook with a valid signature.
    Push,
    /// This service, as a consequence of an operation of the person `user_id`, or on its own.
    System { user_id: Option<UserId> },
    /// The platform (`SuspendEnvironments`, `LiftSuspensions`). It knows the subscription of the
    /// organization better than this service, whose copy may be out of date.
    Platform,
}

impl Initiator {
    /// The person of a grant.
    pub(crate) fn person(grant: &ProjectGrant, right: ProductionRight) -> Self {
        Self::Person { user_id: grant.account().user_id, right }
    }

    fn task_origin(self) -> TaskOrigin {
        match self {
            Self::Person { user_id, .. } => TaskOrigin { user_id, cause: Cause::User },
            Self::Push => TaskOrigin { user_id: NOBODY, cause: Cause::Push },
            Self::System { user_id } => {
                TaskOrigin { user_id: user_id.unwrap_or(NOBODY), cause: Cause::System }
            }
            Self::Platform => TaskOrigin { user_id: NOBODY, cause: Cause::System },
        }
    }

    fn production_right(self) -> Option<ProductionRight> {
        match self {
            Self::Person { right, .. } => Some(right),
            Self::Push => Some(ProductionRight::Push),
            Self::System { .. } | Self::Platform => None,
        }
    }
}

/// User id of tasks that no person starts.
const NOBODY: UserId = UserId(uuid::Uuid::nil());

/// Enqueues a task in a locked environment, if its state, the project, the organization and the server
/// allow it.
pub(crate) async fn enqueue_task(
    tx: &mut Tx,
    environment: Environment,
    spec: TaskSpec,
    initiator: Initiator,
) -> Result<(Environment, Task)> {
    let active = task::store::active(tx, &environment).await?;
    environment.require_allowed(Operation::of_task(spec.kind), active.as_ref())?;
    require_admission(tx, &environment, &spec, initiator).await?;
    let origin = initiator.task_origin();
    let enqueued = environment.enqueue_task(spec, origin, active.as_ref(), tx.now)?;
    store::enqueue_task(tx, enqueued).await
}

/// Enqueues the stop of a locked environment whose organization was deleted. `false`: no program can be
/// running.
pub(crate) async fn enqueue_stop(
    tx: &mut Tx,
    environment: Environment,
    user_id: UserId,
) -> Result<bool> {
    let Some(enqueued) = environment.enqueue_stop(user_id, tx.now) else { return Ok(false) };
    store::enqueue_task(tx, enqueued).await?;
    Ok(true)
}

/// Checks the conditions of a new task other than the state of its environment: the project is not being
/// deleted, PRODUCTION is protected, the organization is active, and the server is reachable.
async fn require_admission(
    tx: &mut Tx,
    environment: &Environment,
    spec: &TaskSpec,
    initiator: Initiator,
) -> Result<()> {
    let project_ref = environment.project_ref();
    let project = if spec.kind.is_shutdown() {
        project::store::load(tx, project_ref).await?
    } else {
        require_active_project(tx, project_ref).await?
    };
    if let Some(right) = initiator.production_right() {
        let facts = store::production_facts(tx.conn(), environment, spec).await?;
        let affects = production::affects_production(environment.kind, spec.kind, &facts);
        production::require_right(&project, affects, right)?;
    }
    let status = organization::store::status(tx, environment.org_id).await?;
    match initiator {
        // Identity has checked the status together with the permission of the person.
        Initiator::Person { .. } | Initiator::System { user_id: Some(_) } => {}
        // The platform resumes programs before the event about the new subscription arrives. Only tasks in
        // a deleted organization are refused; a blocked one needs no reachable server, either.
        Initiator::Platform if status != Status::Deleted => return Ok(()),
        Initiator::Push | Initiator::System { user_id: None } | Initiator::Platform => {
            status.allow_task(spec.kind)?;
        }
    }
    server::store::require_reachable(tx, environment.server_id).await
}

/// Loads a project and locks it against deletion; refuses one that is being deleted.
pub(crate) async fn require_active_project(tx: &mut Tx, project: ProjectRef) -> Result<Project> {
    let project = project::store::load(tx, project).await?;
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
    Ok(production::require_right(&project, affects_production, right)?)
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
    let environment = store::lock(tx, grant.into(), id).await?;
    require_change_allowed(tx, &environment, affects_production, right).await?;
    server::store::require_capacity_for_update(tx, &environment, &patch).await?;
    let disk_used_bytes = server::report::store::disk_used_bytes(tx, environment.id).await?;
    let unchanged = environment.clone();
    match environment.update(patch, etag, disk_used_bytes, tx.now)? {
        Some(changed) => store::update(tx, changed).await,
        None => Ok(unchanged),
    }
}

/// Promotion of a commit from STAGING to PRODUCTION.
pub(super) struct Promotion {
    pub(super) source_id: EnvironmentId,
    /// `None`: the production environment of the project.
    pub(super) target_id: Option<EnvironmentId>,
}

/// Deploys the commit of a STAGING environment to PRODUCTION (PE-44).
pub(super) async fn promote(
    tx: &mut Tx,
    grant: &ProjectGrant,
    promotion: Promotion,
    right: ProductionRight,
) -> Result<Task> {
    let project_ref = ProjectRef::from(grant);
    let source = store::load(tx, project_ref, promotion.source_id).await?;
    if source.kind != Kind::Staging {
        return Err(Error::invalid("environment_id", "must be a STAGING environment"));
    }
    source.require_allowed(Operation::PromoteFrom, None)?;
    let target_id = match promotion.target_id {
        Some(id) => id,
        None => store::production_id(tx, project_ref).await?.ok_or_else(|| {
            let description = "must be set: the project has no PRODUCTION environment";
            Error::invalid("target_environment_id", description)
        })?,
    };
    let target = store::lock(tx, project_ref, target_id).await?;
    if target.kind != Kind::Production {
        let description = "must be a PRODUCTION environment";
        return Err(Error::invalid("target_environment_id", description));
    }
    let spec = TaskSpec {
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
    let environment = store::lock(tx, grant.into(), id).await?;
    let earlier = task::store::earlier_deployment(tx, &environment, deployment_id).await?;
    let active = task::store::active(tx, &environment).await?;
    environment.require_allowed(Operation::Rollback, active.as_ref())?;
    let earlier = earlier.ok_or(Refused::NoEarlierDeployment)?;
    let spec = TaskSpec {
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
    for environment in store::lock_of_organization(tx, org_id).await? {
        let active = task::store::active(tx, &environment).await?;
        let Some(suspended) = environment.suspend(reason, active.as_ref(), tx.now) else {
            continue;
        };
        let environment = store::update(tx, suspended).await?;
        // An environment that a person has paused needs no task: its program is frozen already.
        if environment.resumes {
            let pause = TaskSpec::new(task::Kind::Pause);
            let task = Task::new(&environment, pause, Initiator::Platform.task_origin(), tx.now);
            task::store::insert(tx, &task).await?;
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
    for environment in store::lock_of_organization(tx, org_id).await? {
        if environment.pause_reason != Some(reason) {
            continue;
        }
        let resumes = environment.resumes;
        let environment = store::update(tx, environment.lift_suspension(tx.now)).await?;
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
