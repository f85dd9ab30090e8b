//! gRPC service of environments.

use api::{
    check::Check,
    project::{self as pb, environment_service_server::EnvironmentService},
};
use chassis::{
    Access, Call, Db, OrgId, ProjectGrant, Reply, Result, Tx, call::Context,
    channel::ServiceChannel, page::Pager, reply,
};
use project_rules::{
    environment::{
        CloneSpec, CloneTarget, Draft, Kind, Promotion, admission::Initiator, edit::Patch,
        metric::MetricRange, wire::environment_health,
    },
    task::{self, TaskSpec},
    types::{EnvironmentId, parse_optional_id},
    variable::{Change, Vault, wire::effective_variables},
};
use prost::{Message, Name};
use tonic::Request;

use super::{
    commands::{
        self, Update, addon_variables,
        create::{Conditions, clone, create_and_deploy},
        destroy::{DestroySpec, destroy},
        enqueue_task,
    },
    production_gate::ProductionGate,
};
use crate::{
    organization::client::{PlanLimit, plan_limit},
    store,
};

/// Implementation of `EnvironmentService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) identity: ServiceChannel,
    pub(crate) vault: Vault,
}

impl Rpc {
    fn gate<'a>(&'a self, context: &'a Context, grant: &'a ProjectGrant) -> ProductionGate<'a> {
        ProductionGate { db: &self.db, access: &self.access, context, grant }
    }

    async fn environment_limit(&self, context: &Context, org_id: OrgId) -> Result<Option<i64>> {
        plan_limit(&self.identity, context, org_id, PlanLimit::Environments).await
    }

    /// Enqueues a task in an environment. `response` makes the response from the task.
    async fn enqueue<M, R>(
        &self,
        call: &Call<M>,
        grant: &ProjectGrant,
        id: EnvironmentId,
        spec: TaskSpec,
        response: impl FnOnce(pb::Task) -> R,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        let right = self.gate(call, grant).authorize_task(id, &spec).await?;
        let enqueue = async |tx: &mut Tx| {
            let environment = store::environment::lock(tx, grant.into(), id).await?;
            let initiator = Initiator::person(grant, right);
            let (_, task) = enqueue_task(tx, environment, spec, initiator).await?;
            Ok(response((&task).into()))
        };
        self.db.write(call, enqueue).await
    }
}

/// Body of a method that enqueues a task of a kind, with the fields of the request that the task has.
macro_rules! enqueue {
    ($self:ident, $request:ident, $kind:ident, $response:ident $(, $field:ident)?) => {{
        let call = Call::of($request)?;
        let message = &call.message;
        let grant = $self.access.project(&call, &message.org_id, &message.project_id).await?;
        let id = message.environment_id.parse()?;
        let response = |task| pb::$response { task: Some(task) };
        let spec = TaskSpec {
            $($field: message.$field.clone(),)?
            ..TaskSpec::new(task::Kind::$kind)
        };
        reply($self.enqueue(&call, &grant, id, spec, response).await?)
    }};
}

#[tonic::async_trait]
impl EnvironmentService for Rpc {
    async fn create_environment(
        &self,
        request: Request<pb::CreateEnvironmentRequest>,
    ) -> Reply<pb::CreateEnvironmentResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let draft = Draft::try_from(message)?;
        let deploys = message.deploy_now || message.auto_deploy;
        let affects_production = draft.kind == Kind::Production && deploys;
        let right = self.gate(&call, &grant).authorize(affects_production).await?;
        let plan_limit = self.environment_limit(&call, grant.org_id()).await?;
        let conditions = Conditions { plan_limit, right };
        let create = async |tx: &mut Tx| {
            let deploy_now = message.deploy_now;
            let (environment, task) =
                create_and_deploy(tx, &grant, draft, conditions, deploy_now, &self.vault).await?;
            let task = task.as_ref().map(Into::into);
            Ok(pb::CreateEnvironmentResponse { environment: Some((&environment).into()), task })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn get_environment(
        &self,
        request: Request<pb::GetEnvironmentRequest>,
    ) -> Reply<pb::GetEnvironmentResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let environment =
            store::environment::get(&self.db, &grant, message.environment_id.parse()?).await?;
        reply(pb::GetEnvironmentResponse { environment: Some((&environment).into()) })
    }

    async fn list_environments(
        &self,
        request: Request<pb::ListEnvironmentsRequest>,
    ) -> Reply<pb::ListEnvironmentsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let filter = [message.org_id.as_str(), &message.project_id];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let rows = store::environment::list(&self.db, &grant, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
        let environments = rows.iter().map(Into::into).collect();
        reply(pb::ListEnvironmentsResponse { environments, next_page_token })
    }

    async fn get_environment_health(
        &self,
        request: Request<pb::GetEnvironmentHealthRequest>,
    ) -> Reply<pb::GetEnvironmentHealthResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let id = message.environment_id.parse()?;
        let environment = store::environment::get(&self.db, &grant, id).await?;
        let report = store::report::get(&self.db, id).await?;
        let deployment_id = store::task::last_deployment_id(&self.db, &grant, id).await?;
        let health = environment_health(report, environment.resources(), deployment_id);
        reply(pb::GetEnvironmentHealthResponse { health: Some(health) })
    }

    async fn get_metrics(
        &self,
        request: Request<pb::GetMetricsRequest>,
    ) -> Reply<pb::GetMetricsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let range = MetricRange::from_request(message, self.db.now())?;
        let id = message.environment_id.parse()?;
        store::environment::get(&self.db, &grant, id).await?;
        reply(range.response(&store::metric::list(&self.db, id, &range).await?))
    }

    async fn update_environment(
        &self,
        request: Request<pb::UpdateEnvironmentRequest>,
    ) -> Reply<pb::UpdateEnvironmentResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let patch = Patch::try_from(message)?;
        let id = message.environment_id.parse()?;
        let kind = store::environment::get(&self.db, &grant, id).await?.kind;
        let affects_production = kind == Kind::Production && patch.changes_deployment();
        let right = self.gate(&call, &grant).authorize(affects_production).await?;
        let update = Update { id, patch, etag: &message.etag, affects_production, right };
        let update = async |tx: &mut Tx| {
            let environment = commands::update(tx, &grant, update).await?;
            Ok(pb::UpdateEnvironmentResponse { environment: Some((&environment).into()) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn deploy_environment(
        &self,
        request: Request<pb::DeployEnvironmentRequest>,
    ) -> Reply<pb::DeployEnvironmentResponse> {
        enqueue!(self, request, Deploy, DeployEnvironmentResponse, modules)
    }

    async fn start_environment(
        &self,
        request: Request<pb::StartEnvironmentRequest>,
    ) -> Reply<pb::StartEnvironmentResponse> {
        enqueue!(self, request, Start, StartEnvironmentResponse)
    }

    async fn stop_environment(
        &self,
        request: Request<pb::StopEnvironmentRequest>,
    ) -> Reply<pb::StopEnvironmentResponse> {
        enqueue!(self, request, Stop, StopEnvironmentResponse)
    }

    async fn restart_environment(
        &self,
        request: Request<pb::RestartEnvironmentRequest>,
    ) -> Reply<pb::RestartEnvironmentResponse> {
        enqueue!(self, request, Restart, RestartEnvironmentResponse)
    }

    async fn update_modules(
        &self,
        request: Request<pb::UpdateModulesRequest>,
    ) -> Reply<pb::UpdateModulesResponse> {
        enqueue!(self, request, UpdateModules, UpdateModulesResponse, modules)
    }

    async fn pause_environment(
        &self,
        request: Request<pb::PauseEnvironmentRequest>,
    ) -> Reply<pb::PauseEnvironmentResponse> {
        enqueue!(self, request, Pause, PauseEnvironmentResponse)
    }

    async fn resume_environment(
        &self,
        request: Request<pb::ResumeEnvironmentRequest>,
    ) -> Reply<pb::ResumeEnvironmentResponse> {
        enqueue!(self, request, Resume, ResumeEnvironmentResponse)
    }

    async fn sync_environment(
        &self,
        request: Request<pb::SyncEnvironmentRequest>,
    ) -> Reply<pb::SyncEnvironmentResponse> {
        enqueue!(self, request, Sync, SyncEnvironmentResponse)
    }

    async fn rollback_environment(
        &self,
        request: Request<pb::RollbackEnvironmentRequest>,
    ) -> Reply<pb::RollbackEnvironmentResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let id = message.environment_id.parse()?;
        let spec = TaskSpec::new(task::Kind::Rollback);
        let right = self.gate(&call, &grant).authorize_task(id, &spec).await?;
        let rollback = async |tx: &mut Tx| {
            let deployment_id = parse_optional_id(&message.deployment_id)?;
            let task = commands::rollback(tx, &grant, id, deployment_id, right).await?;
            Ok(pb::RollbackEnvironmentResponse { task: Some((&task).into()) })
        };
        reply(self.db.write(&call, rollback).await?)
    }

    async fn clone_environment(
        &self,
        request: Request<pb::CloneEnvironmentRequest>,
    ) -> Reply<pb::CloneEnvironmentResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let spec = CloneSpec::try_from(message)?;
        let plan_limit = match spec.target {
            CloneTarget::New { .. } => self.environment_limit(&call, grant.org_id()).await?,
            CloneTarget::Existing { .. } => {
                let permission = "project.environments.update";
                self.access.require_additional(&call, &grant, permission).await?;
                None
            }
        };
        let right = self.gate(&call, &grant).authorize_clone(&spec).await?;
        let conditions = Conditions { plan_limit, right };
        let clone = async |tx: &mut Tx| {
            let (environment, task) = clone(tx, &grant, spec, conditions, &self.vault).await?;
            Ok(pb::CloneEnvironmentResponse {
                environment: Some((&environment).into()),
                task: Some((&task).into()),
            })
        };
        reply(self.db.write(&call, clone).await?)
    }

    async fn promote_environment(
        &self,
        request: Request<pb::PromoteEnvironmentRequest>,
    ) -> Reply<pb::PromoteEnvironmentResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let promotion = Promotion::try_from(message)?;
        let right = self.gate(&call, &grant).authorize(true).await?;
        let promote = async |tx: &mut Tx| {
            let task = commands::promote(tx, &grant, promotion, right).await?;
            Ok(pb::PromoteEnvironmentResponse { task: Some((&task).into()) })
        };
        reply(self.db.write(&call, promote).await?)
    }

    async fn destroy_environment(
        &self,
        request: Request<pb::DestroyEnvironmentRequest>,
    ) -> Reply<pb::DestroyEnvironmentResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let spec = DestroySpec {
            id: message.environment_id.parse()?,
            confirm_name: &message.confirm_name,
            allow_production: message.allow_production,
            force: message.force,
        };
        let destroy = async |tx: &mut Tx| {
            let destruction = destroy(tx, &grant, spec).await?;
            Ok(pb::DestroyEnvironmentResponse {
                task: destruction.task.as_ref().map(Into::into),
                environment: Some((&destruction.environment).into()),
            })
        };
        reply(self.db.write(&call, destroy).await?)
    }

    async fn list_variables(
        &self,
        request: Request<pb::ListVariablesRequest>,
    ) -> Reply<pb::ListVariablesResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let environment =
            store::environment::get(&self.db, &grant, message.environment_id.parse()?).await?;
        let variables = store::variable::list(&self.db, &environment).await?;
        let of_addons = addon_variables(&store::addon::list(&self.db, &grant).await?)?;
        let variables = effective_variables(&variables, &of_addons);
        reply(pb::ListVariablesResponse { variables })
    }

    async fn set_variables(
        &self,
        request: Request<pb::SetVariablesRequest>,
    ) -> Reply<pb::SetVariablesResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let id = message.environment_id.parse()?;
        let is_production =
            store::environment::get(&self.db, &grant, id).await?.kind == Kind::Production;
        let right = self.gate(&call, &grant).authorize(is_production).await?;
        let change = Change::from(message);
        let set = async |tx: &mut Tx| {
            let environment = store::environment::lock(tx, (&grant).into(), id).await?;
            let variables =
                commands::set_variables(tx, &environment, &change, right, &self.vault).await?;
            Ok(pb::SetVariablesResponse { variables })
        };
        reply(self.db.write(&call, set).await?)
    }

    async fn suspend_environments(
        &self,
        request: Request<pb::SuspendEnvironmentsRequest>,
    ) -> Reply<pb::SuspendEnvironmentsResponse> {
        let call = Call::of(request)?;
        let (org_id, reason) = (call.message.org_id.parse()?, call.message.reason().into());
        let suspend = async |tx: &mut Tx| {
            let suspended = commands::suspend(tx, org_id, reason).await?;
            Ok(pb::SuspendEnvironmentsResponse { suspended })
        };
        reply(self.db.write(&call, suspend).await?)
    }

    async fn lift_suspensions(
        &self,
        request: Request<pb::LiftSuspensionsRequest>,
    ) -> Reply<pb::LiftSuspensionsResponse> {
        let call = Call::of(request)?;
        let (org_id, reason) = (call.message.org_id.parse()?, call.message.reason().into());
        let lift = async |tx: &mut Tx| {
            let lifted = commands::lift_suspensions(tx, org_id, reason).await?;
            Ok(pb::LiftSuspensionsResponse { lifted })
        };
        reply(self.db.write(&call, lift).await?)
    }
}
