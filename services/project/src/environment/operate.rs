//! What is asked of an environment and becomes a task: each locks it, asks the rules, and queues.

use api::{
    check::Check,
    identity::{GetLimitsRequest, organization_service_client::OrganizationServiceClient},
    project as pb,
};
use chassis::{Call, Error, OrgId, ProjectGrant, Result, Tx, UserId, call::Context, error::remote};
use prost::{Message, Name};

use super::{
    Draft, Environment, EnvironmentId, Kind, PauseReason, Refused, State,
    admission::{self, Initiator},
    locking,
    machine::Operation,
    made_name,
    rpc::Rpc,
    store,
    wire::{kind, optional},
};
use crate::{
    attachment,
    project::{
        self,
        production::{self, Gate, Right},
    },
    server,
    task::{self, Cause, Order, Task},
    variable::{self, Vault},
};

impl Rpc {
    /// How many environments the organization's plan allows.
    pub(super) async fn limit(&self, context: &Context, org_id: &str) -> Result<Option<i64>> {
        let question = GetLimitsRequest { org_id: org_id.to_owned() };
        let mut identity = OrganizationServiceClient::new(self.identity.clone());
        let limits = identity.get_limits(context.forward(question)).await;
        let limits = limits.map_err(remote("identity"))?.into_inner().limits;
        Ok(limits.into_iter().find(|it| it.key == "environments").and_then(|it| it.value))
    }

    /// The way of a caller to what may concern PRODUCTION.
    pub(super) fn gate<'a>(&'a self, context: &'a Context, grant: &'a ProjectGrant) -> Gate<'a> {
        Gate { db: &self.db, access: &self.access, context, grant }
    }

    /// The caller's right to a copy, of which either side may be PRODUCTION.
    pub(super) async fn pass_copy(
        &self,
        call: &Call<pb::CloneEnvironmentRequest>,
        grant: &ProjectGrant,
    ) -> Result<Right> {
        let it = &call.message;
        let source = store::get(&self.db, grant, it.environment_id.parse()?).await?.kind;
        let target = match optional(&it.target_environment_id)? {
            Some(id) => store::get(&self.db, grant, id).await?.kind,
            None => kind(it.kind()),
        };
        self.gate(call, grant).pass([source, target].contains(&Kind::Production)).await
    }

    /// Queues a task in an environment, and makes the answer of it.
    pub(super) async fn queue<M, R>(
        &self,
        call: &Call<M>,
        grant: &ProjectGrant,
        id: EnvironmentId,
        order: Order,
        answer: impl FnOnce(pb::Task) -> R,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        let environment = store::get(&self.db, grant, id).await?;
        let right = self.gate(call, grant).pass_task(&environment, &order).await?;
        let queue = async |tx: &mut Tx| {
            let it = store::lock(tx, (grant.org_id(), grant.project_id()), id).await?;
            let by = Initiator::person(grant, right);
            Ok(answer((&admission::queue(tx, it, order, by).await?.1).into()))
        };
        self.db.write(call, queue).await
    }
}

/// Makes an environment, if the plan and its server have room for it (PE-18, PE-19).
pub(super) async fn create(
    tx: &mut Tx,
    grant: &ProjectGrant,
    mut draft: Draft,
    limit: Option<i64>,
    right: Right,
    vault: &Vault,
) -> Result<Environment> {
    let place = (grant.org_id(), grant.project_id());
    require_place(tx, place.0, limit).await?;
    let project = admission::active_project(tx, place).await?;
    production::admit(&project, draft.kind == Kind::Production && draft.auto_deploy, right)?;
    draft.server_id = draft.server_id.or(project.server_id);
    if let Some(server_id) = draft.server_id {
        let server = server::store::lock(tx, place.0, server_id).await?;
        server.reachable(tx.now)?;
        server.has_room(draft.room, server::store::allocated(tx, server.id, None).await?)?;
    }
    let name = if draft.name.is_empty() {
        made_name(&project.slug, draft.kind, &store::names(tx, &project).await?)
    } else {
        draft.name.clone()
    };
    let it = store::insert(tx, Environment::create(grant, &project, draft, name, tx.now)).await?;
    attachment::provide::give_all(tx, &it, vault).await?;
    Ok(it)
}

/// Refuses one more environment than the plan allows; until the transaction ends, nobody else adds one.
async fn require_place(tx: &mut Tx, org_id: OrgId, limit: Option<i64>) -> Result<()> {
    if limit.is_some() {
        Environment::fits(store::count(tx, org_id).await?, limit)?;
    }
    Ok(())
}

/// Copies an environment into a new one, or over another one (PE-40, PE-41). The source stands still.
pub(super) async fn clone(
    tx: &mut Tx,
    grant: &ProjectGrant,
    it: &pb::CloneEnvironmentRequest,
    limit: Option<i64>,
    right: Right,
    vault: &Vault,
) -> Result<(Environment, Task)> {
    let place = (grant.org_id(), grant.project_id());
    require_place(tx, place.0, limit).await?;
    let source_id: EnvironmentId = it.environment_id.parse()?;
    let existing: Option<EnvironmentId> = optional(&it.target_environment_id)?;
    let ids: Vec<_> = existing.into_iter().chain([source_id]).collect();
    let locked = locking::many(tx, place, &ids).await?;
    let source = locked.iter().find(|it| it.id == source_id).cloned();
    let source = source.ok_or(Refused::AcrossServers)?;
    let active = task::store::active(tx, &source).await?;
    source.admit(Operation::CloneFrom, active.as_ref())?;
    let target = match existing {
        Some(id) => {
            let target = locked.into_iter().find(|it| it.id == id && it.id != source_id);
            let target = target.ok_or(Refused::AcrossServers)?;
            if target.name != it.confirm_name {
                return Err(Refused::WrongName.into());
            }
            target
        }
        None => create(tx, grant, copy_of(&source, it), limit, right, vault).await?,
    };
    if target.server_id != source.server_id {
        return Err(Refused::AcrossServers.into());
    }
    store::hold(tx, &source).await?;
    let order = Order { source_environment_id: Some(source.id), ..Order::plain(task::Kind::Clone) };
    let by = Initiator::person(grant, right);
    if existing.is_some() {
        return admission::queue(tx, target, order, by).await;
    }
    variable::store::copy(tx, &source, target.id).await?;
    admission::fill(tx, target, order, by).await
}

fn copy_of(source: &Environment, it: &pb::CloneEnvironmentRequest) -> Draft {
    Draft {
        name: it.name.trim().to_owned(),
        kind: kind(it.kind()),
        branch: Some(source.branch.clone()),
        server_id: source.server_id,
        auto_deploy: false,
        room: source.room(),
    }
}

/// The commit that STAGING serves, for PRODUCTION (PE-44).
pub(super) async fn promote(
    tx: &mut Tx,
    grant: &ProjectGrant,
    it: &pb::PromoteEnvironmentRequest,
    right: Right,
) -> Result<Task> {
    let place = (grant.org_id(), grant.project_id());
    let source = store::load(tx, place, it.environment_id.parse()?).await?;
    if source.kind != Kind::Staging {
        return Err(Error::invalid("environment_id", "must be a STAGING environment"));
    }
    source.admit(Operation::PromoteFrom, None)?;
    let target = match optional(&it.target_environment_id)? {
        Some(id) => id,
        None => store::production(tx, place).await?.ok_or_else(|| {
            Error::invalid("target_environment_id", "the project has no PRODUCTION environment")
        })?,
    };
    let target = store::lock(tx, place, target).await?;
    if target.kind != Kind::Production {
        let description = "must be a PRODUCTION environment";
        return Err(Error::invalid("target_environment_id", description));
    }
    let order = Order {
        commit: source.commit,
        source_environment_id: Some(source.id),
        ..Order::plain(task::Kind::Promote)
    };
    let by = Initiator::person(grant, right);
    admission::queue(tx, target, order, by).await.map(|it| it.1)
}

/// An earlier good deployment, or the one that is asked for, comes back (PE-33).
pub(super) async fn rollback(
    tx: &mut Tx,
    grant: &ProjectGrant,
    it: &pb::RollbackEnvironmentRequest,
    right: Right,
) -> Result<Task> {
    let place = (grant.org_id(), grant.project_id());
    let environment = store::lock(tx, place, it.environment_id.parse()?).await?;
    let wanted = optional(&it.deployment_id)?;
    let earlier = task::store::earlier(tx, &environment, wanted).await?;
    let active = task::store::active(tx, &environment).await?;
    environment.admit(Operation::Rollback, active.as_ref())?;
    let earlier = earlier.ok_or(Refused::NoEarlierDeployment)?;
    let order = Order {
        commit: earlier.commit,
        modules: earlier.modules,
        deployment_id: Some(earlier.id),
        ..Order::plain(task::Kind::Rollback)
    };
    let by = Initiator::person(grant, right);
    admission::queue(tx, environment, order, by).await.map(|it| it.1)
}

/// Removes an environment; by force only its record, if its server is gone (PE-37, PE-38, 2.7).
pub(super) async fn destroy(
    tx: &mut Tx,
    grant: &ProjectGrant,
    it: &pb::DestroyEnvironmentRequest,
) -> Result<pb::DestroyEnvironmentResponse> {
    let place = (grant.org_id(), grant.project_id());
    let environment = locking::with_copy(tx, place, it.environment_id.parse()?).await?;
    if environment.name != it.confirm_name {
        return Err(Refused::WrongName.into());
    }
    if environment.kind == Kind::Production && !it.allow_production {
        return Err(Refused::ProductionProtected.into());
    }
    let unreachable = server::store::require_reachable(tx, environment.server_id).await.is_err();
    if it.force && unreachable && environment.server_id.is_some() {
        return drop_record(tx, environment).await;
    }
    if environment.state == State::Pending && environment.server_id.is_none() {
        // It never was anywhere: any runner would have nothing to do.
        environment
            .admit(Operation::Destroy, task::store::active(tx, &environment).await?.as_ref())?;
        let gone = environment.never_was(tx.now);
        let told = pb::Environment::from(gone.state());
        store::remove(tx, gone).await?;
        project::deletion::go_on(tx, place).await?;
        return Ok(pb::DestroyEnvironmentResponse { task: None, environment: Some(told) });
    }
    let by = Initiator::person(grant, Right::NotAsked);
    let (environment, task) =
        admission::queue(tx, environment, Order::plain(task::Kind::Destroy), by).await?;
    let (task, environment) = (Some((&task).into()), Some((&environment).into()));
    Ok(pb::DestroyEnvironmentResponse { task, environment })
}

/// Removes the record of an environment whose server is gone, and ends what its server was to do.
async fn drop_record(
    tx: &mut Tx,
    environment: Environment,
) -> Result<pb::DestroyEnvironmentResponse> {
    let place = (environment.org_id, environment.project_id);
    let active = task::store::active(tx, &environment).await?;
    if let Some(task) = &active {
        task::store::lock(tx, place.0, task.id).await?;
    }
    // As strong as it will be needed at the end.
    project::store::lock(tx, place).await?;
    if let Some(task) = active {
        task::runner::call_off(tx, &environment, task, "its server is gone").await?;
    }
    let environment = store::lock(tx, place, environment.id).await?;
    let gone =
        pb::Environment { state: pb::EnvironmentState::Deleted.into(), ..(&environment).into() };
    store::remove(tx, environment.drop_record(tx.now)).await?;
    project::deletion::go_on(tx, place).await?;
    Ok(pb::DestroyEnvironmentResponse { task: None, environment: Some(gone) })
}

/// The platform pauses what an organization runs.
pub(super) async fn suspend(tx: &mut Tx, org_id: OrgId, reason: PauseReason) -> Result<i32> {
    let mut suspended = 0;
    for it in store::lock_of_organization(tx, org_id).await? {
        let active = task::store::active(tx, &it).await?;
        let Some(paused) = it.suspend(reason, active.as_ref(), tx.now) else { continue };
        let it = store::update(tx, paused).await?;
        if it.resumes {
            let order = Order::plain(task::Kind::Pause);
            let nobody = UserId(uuid::Uuid::nil());
            let task = Task::queue(&it, order, (nobody, Cause::System), tx.now);
            task::store::insert(tx, &task).await?;
        }
        suspended += 1;
    }
    Ok(suspended)
}

/// The platform lets go on what it paused for this reason.
pub(super) async fn lift(tx: &mut Tx, org_id: OrgId, reason: PauseReason) -> Result<i32> {
    let mut lifted = 0;
    for it in store::lock_of_organization(tx, org_id).await? {
        if it.pause_reason != Some(reason) {
            continue;
        }
        let resumes = it.resumes;
        let it = store::update(tx, it.lift(tx.now)).await?;
        lifted += 1;
        if resumes {
            let order = Order::plain(task::Kind::Resume);
            match admission::queue(tx, it, order, Initiator::Platform).await {
                // Another task goes on, or nothing may start there: it stays paused, by its person.
                Ok(_) | Err(Error::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(lifted)
}
