//! Creation of environments: empty, or as a clone.

use chassis::{OrgId, ProjectGrant, Result, Tx, fold};
use project_rules::{
    addon::Instance,
    environment::{
        CloneSpec, CloneTarget, Draft, Environment, Kind, Refused, admission::Initiator,
        generate_name, production::ProductionRight, state_machine::Operation,
    },
    task::{self, Task, TaskSpec},
    types::ProjectRef,
    variable::Vault,
};

use super::{enqueue_task, require_active_project, require_admission};
use crate::{environment::locking, store};

/// Conditions of the creation of an environment that were checked before the transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions {
    /// Number of environments that the plan allows; `None` means unlimited.
    pub(crate) plan_limit: Option<i64>,
    pub(crate) right: ProductionRight,
}

/// Creates an environment, and enqueues its first deployment if `deploy_now` is set.
pub(crate) async fn create_and_deploy(
    tx: &mut Tx,
    grant: &ProjectGrant,
    draft: Draft,
    conditions: Conditions,
    deploy_now: bool,
    vault: &Vault,
) -> Result<(Environment, Option<Task>)> {
    let environment = create(tx, grant, draft, conditions, vault).await?;
    if !deploy_now {
        return Ok((environment, None));
    }
    let deploy = TaskSpec::new(task::Kind::Deploy);
    let initiator = Initiator::person(grant, conditions.right);
    let (environment, task) = enqueue_task(tx, environment, deploy, initiator).await?;
    Ok((environment, Some(task)))
}

/// Creates an environment, if the plan and the server have capacity for it (PE-18, PE-19).
async fn create(
    tx: &mut Tx,
    grant: &ProjectGrant,
    mut draft: Draft,
    conditions: Conditions,
    vault: &Vault,
) -> Result<Environment> {
    let project_ref = ProjectRef::from(grant);
    require_plan_capacity(tx, grant.org_id(), conditions.plan_limit).await?;
    let project = require_active_project(tx, project_ref).await?;
    let affects_production = draft.kind == Kind::Production && draft.auto_deploy;
    let min_role = project.production_deploy_min_role;
    min_role.require_right(affects_production, conditions.right)?;
    if draft.branch.is_empty() {
        draft.branch = project.default_branch;
    }
    draft.server_id = draft.server_id.or(project.server_id);
    if let Some(server_id) = draft.server_id {
        let server = store::server::lock_for_placement(tx, grant.org_id(), server_id).await?;
        server.require_reachable(tx.now)?;
        let allocated = store::server::allocated(tx, server.id, None).await?;
        server.require_capacity(draft.resources, allocated)?;
    }
    let name = if draft.name.is_empty() {
        generate_name(&project.slug, draft.kind, &store::environment::names(tx, project_ref).await?)
    } else {
        draft.name.clone()
    };
    let created = Environment::create(grant, draft, name, tx.now);
    let environment = store::environment::insert(tx, created).await?;
    for addon in store::addon::of_project(tx, project_ref).await? {
        if !addon.removing {
            let instance = Instance::new(&addon, environment.id, vault);
            store::addon::upsert_instance(tx, addon.org_id, &instance).await?;
        }
    }
    Ok(environment)
}

/// Refuses one more environment than the plan allows. The environments of the organization are locked against
/// other creations until the transaction ends.
async fn require_plan_capacity(tx: &mut Tx, org_id: OrgId, limit: Option<i64>) -> Result<()> {
    if limit.is_some() {
        let count = store::environment::lock_and_count(tx, org_id).await?;
        Environment::require_plan_capacity(count, limit)?;
    }
    Ok(())
}

/// Clones an environment into a new one, or over an existing one (PE-40, PE-41). The source is in state
/// CLONING until the task ends.
pub(crate) async fn clone(
    tx: &mut Tx,
    grant: &ProjectGrant,
    clone: CloneSpec,
    conditions: Conditions,
    vault: &Vault,
) -> Result<(Environment, Task)> {
    require_plan_capacity(tx, grant.org_id(), conditions.plan_limit).await?;
    let source_id = clone.source_id;
    let ids = match &clone.target {
        CloneTarget::New { .. } => vec![source_id],
        CloneTarget::Existing { id, .. } => vec![source_id, *id],
    };
    let locked = locking::lock_all(tx, grant.into(), &ids).await?;
    let source = locked.iter().find(|it| it.id == source_id).cloned();
    let source = source.ok_or(Refused::AcrossServers)?;
    let active = store::task::active(tx, &source).await?;
    source.require_allowed(Operation::CloneFrom, active.as_ref())?;
    let spec =
        TaskSpec { source_environment_id: Some(source.id), ..TaskSpec::new(task::Kind::Clone) };
    let initiator = Initiator::person(grant, conditions.right);
    match clone.target {
        CloneTarget::Existing { id, confirm_name } => {
            let target = locked.into_iter().find(|it| it.id == id && it.id != source_id);
            let target = target.ok_or(Refused::AcrossServers)?;
            if !fold::is_exact_name(&confirm_name, &target.name) {
                return Err(Refused::WrongName.into());
            }
            require_same_server(&source, &target)?;
            store::environment::lock_source(tx, &source).await?;
            enqueue_task(tx, target, spec, initiator).await
        }
        CloneTarget::New { name, kind } => {
            let draft = Draft {
                name,
                kind,
                branch: source.branch.clone(),
                server_id: source.server_id,
                auto_deploy: false,
                resources: source.resources(),
            };
            let target = create(tx, grant, draft, conditions, vault).await?;
            require_same_server(&source, &target)?;
            store::environment::lock_source(tx, &source).await?;
            store::variable::copy(tx, &source, target.id).await?;
            require_admission(tx, &target, &spec, initiator).await?;
            let enqueued = target.enqueue_first_clone(spec, initiator.task_origin(), tx.now);
            store::environment::enqueue_task(tx, enqueued).await
        }
    }
}

/// Data is copied on one server.
fn require_same_server(source: &Environment, target: &Environment) -> Result<(), Refused> {
    if source.server_id == target.server_id { Ok(()) } else { Err(Refused::AcrossServers) }
}
