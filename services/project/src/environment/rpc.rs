//! The gRPC surface of environments.

use api::project::{self as pb, environment_service_server::EnvironmentService};
use chassis::{Access, Call, Db, Reply, Tx, link::Link, page::Pager, reply};
use tonic::Request;

use super::{
    Draft, EnvironmentId, PauseReason,
    admission::{self, Initiator},
    operate::{self, clone, create, destroy, promote, rollback},
    store, wire,
};
use crate::{
    server,
    task::{self, Kind, Order},
    variable::{self, Vault},
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) identity: Link,
    pub(crate) vault: Vault,
}

/// A call that only queues a task of a kind.
macro_rules! plain {
    ($self:ident, $request:ident, $kind:ident, $answer:ident) => {{
        let call = Call::of($request)?;
        let it = &call.message;
        let grant = $self.access.project(&call, &it.org_id, &it.project_id).await?;
        let (id, order) = (it.environment_id.parse()?, Order::plain(Kind::$kind));
        let answer = |task| pb::$answer { task: Some(task) };
        reply($self.queue(&call, &grant, id, order, answer).await?)
    }};
}

#[tonic::async_trait]
impl EnvironmentService for Rpc {
    async fn create_environment(
        &self,
        request: Request<pb::CreateEnvironmentRequest>,
    ) -> Reply<pb::CreateEnvironmentResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let draft = Draft::try_from(it)?;
        let is_deployed = it.deploy_now || it.auto_deploy;
        let is_production = draft.kind == super::Kind::Production;
        let right = self.gate(&call, &grant).pass(is_production && is_deployed).await?;
        let limit = self.limit(&call, &it.org_id).await?;
        let create = async |tx: &mut Tx| {
            let environment = create(tx, &grant, draft, limit, right, &self.vault).await?;
            let (environment, task) = if it.deploy_now {
                let (order, by) = (Order::plain(Kind::Deploy), Initiator::person(&grant, right));
                let (environment, task) = admission::queue(tx, environment, order, by).await?;
                (environment, Some((&task).into()))
            } else {
                (environment, None)
            };
            let environment = Some((&environment).into());
            Ok(pb::CreateEnvironmentResponse { environment, task })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn get_environment(
        &self,
        request: Request<pb::GetEnvironmentRequest>,
    ) -> Reply<pb::GetEnvironmentResponse> {
        let call = Call::of(request)?;
        let grant =
            self.access.project(&call, &call.message.org_id, &call.message.project_id).await?;
        let it = store::get(&self.db, &grant, call.message.environment_id.parse()?).await?;
        reply(pb::GetEnvironmentResponse { environment: Some((&it).into()) })
    }

    async fn list_environments(
        &self,
        request: Request<pb::ListEnvironmentsRequest>,
    ) -> Reply<pb::ListEnvironmentsResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let page =
            self.pager.page(&call, it.page_size, &it.page_token, &[&it.org_id, &it.project_id])?;
        let rows = store::list(&self.db, &grant, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.into());
        let environments = rows.iter().map(Into::into).collect();
        reply(pb::ListEnvironmentsResponse { environments, next_page_token })
    }

    async fn get_environment_health(
        &self,
        request: Request<pb::GetEnvironmentHealthRequest>,
    ) -> Reply<pb::GetEnvironmentHealthResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let environment = store::get(&self.db, &grant, it.environment_id.parse()?).await?;
        let report = server::report::store::report(&self.db, &environment).await?;
        let last = task::store::last_deployment(&self.db, &grant, environment.id).await?;
        let health = server::wire::health(report, environment.room(), last);
        reply(pb::GetEnvironmentHealthResponse { health: Some(health) })
    }

    async fn update_environment(
        &self,
        request: Request<pb::UpdateEnvironmentRequest>,
    ) -> Reply<pb::UpdateEnvironmentResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let patch = wire::patch(it)?;
        let id: EnvironmentId = it.environment_id.parse()?;
        let is_production = store::get(&self.db, &grant, id).await?.kind == super::Kind::Production;
        let is_concerned = is_production && patch.changes_deployment();
        let right = self.gate(&call, &grant).pass(is_concerned).await?;
        let update = async |tx: &mut Tx| {
            let environment = store::lock(tx, (grant.org_id(), grant.project_id()), id).await?;
            admission::change(tx, &environment, is_concerned, right).await?;
            server::store::require_room(tx, &environment, &patch).await?;
            let used = server::report::store::disk_used(tx, &environment).await?;
            let unchanged = pb::Environment::from(&environment);
            let environment = match environment.edit(patch, &it.etag, used, tx.now)? {
                Some(changed) => (&store::update(tx, changed).await?).into(),
                None => unchanged,
            };
            Ok(pb::UpdateEnvironmentResponse { environment: Some(environment) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn deploy_environment(
        &self,
        request: Request<pb::DeployEnvironmentRequest>,
    ) -> Reply<pb::DeployEnvironmentResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let id = it.environment_id.parse()?;
        let order = Order { modules: it.modules.clone(), ..Order::plain(Kind::Deploy) };
        let answer = |task| pb::DeployEnvironmentResponse { task: Some(task) };
        reply(self.queue(&call, &grant, id, order, answer).await?)
    }

    async fn start_environment(
        &self,
        request: Request<pb::StartEnvironmentRequest>,
    ) -> Reply<pb::StartEnvironmentResponse> {
        plain!(self, request, Start, StartEnvironmentResponse)
    }

    async fn stop_environment(
        &self,
        request: Request<pb::StopEnvironmentRequest>,
    ) -> Reply<pb::StopEnvironmentResponse> {
        plain!(self, request, Stop, StopEnvironmentResponse)
    }

    async fn restart_environment(
        &self,
        request: Request<pb::RestartEnvironmentRequest>,
    ) -> Reply<pb::RestartEnvironmentResponse> {
        plain!(self, request, Restart, RestartEnvironmentResponse)
    }

    async fn pause_environment(
        &self,
        request: Request<pb::PauseEnvironmentRequest>,
    ) -> Reply<pb::PauseEnvironmentResponse> {
        plain!(self, request, Pause, PauseEnvironmentResponse)
    }

    async fn resume_environment(
        &self,
        request: Request<pb::ResumeEnvironmentRequest>,
    ) -> Reply<pb::ResumeEnvironmentResponse> {
        plain!(self, request, Resume, ResumeEnvironmentResponse)
    }

    async fn sync_environment(
        &self,
        request: Request<pb::SyncEnvironmentRequest>,
    ) -> Reply<pb::SyncEnvironmentResponse> {
        plain!(self, request, Sync, SyncEnvironmentResponse)
    }

    async fn rollback_environment(
        &self,
        request: Request<pb::RollbackEnvironmentRequest>,
    ) -> Reply<pb::RollbackEnvironmentResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let environment = store::get(&self.db, &grant, it.environment_id.parse()?).await?;
        let order = Order::plain(Kind::Rollback);
        let right = self.gate(&call, &grant).pass_task(&environment, &order).await?;
        let rollback = async |tx: &mut Tx| {
            let task = Some((&rollback(tx, &grant, it, right).await?).into());
            Ok(pb::RollbackEnvironmentResponse { task })
        };
        reply(self.db.write(&call, rollback).await?)
    }

    async fn clone_environment(
        &self,
        request: Request<pb::CloneEnvironmentRequest>,
    ) -> Reply<pb::CloneEnvironmentResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let limit = if it.target_environment_id.is_empty() {
            self.limit(&call, &it.org_id).await?
        } else {
            self.access.also(&call, &grant, "project.environments.update").await?;
            None
        };
        let right = self.pass_copy(&call, &grant).await?;
        let clone = async |tx: &mut Tx| {
            let (environment, task) = clone(tx, &grant, it, limit, right, &self.vault).await?;
            let (environment, task) = (Some((&environment).into()), Some((&task).into()));
            Ok(pb::CloneEnvironmentResponse { environment, task })
        };
        reply(self.db.write(&call, clone).await?)
    }

    async fn promote_environment(
        &self,
        request: Request<pb::PromoteEnvironmentRequest>,
    ) -> Reply<pb::PromoteEnvironmentResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let right = self.gate(&call, &grant).pass(true).await?;
        let promote = async |tx: &mut Tx| {
            let task = Some((&promote(tx, &grant, it, right).await?).into());
            Ok(pb::PromoteEnvironmentResponse { task })
        };
        reply(self.db.write(&call, promote).await?)
    }

    async fn destroy_environment(
        &self,
        request: Request<pb::DestroyEnvironmentRequest>,
    ) -> Reply<pb::DestroyEnvironmentResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let destroy = async |tx: &mut Tx| destroy(tx, &grant, it).await;
        reply(self.db.write(&call, destroy).await?)
    }

    async fn list_variables(
        &self,
        request: Request<pb::ListVariablesRequest>,
    ) -> Reply<pb::ListVariablesResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        reply(variable::rpc::list(&self.db, &grant, it).await?)
    }

    async fn set_variables(
        &self,
        request: Request<pb::SetVariablesRequest>,
    ) -> Reply<pb::SetVariablesResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let environment = store::get(&self.db, &grant, it.environment_id.parse()?).await?;
        let is_production = environment.kind == super::Kind::Production;
        let right = self.gate(&call, &grant).pass(is_production).await?;
        let set = async |tx: &mut Tx| variable::rpc::set(tx, &grant, it, right, &self.vault).await;
        reply(self.db.write(&call, set).await?)
    }

    async fn suspend_environments(
        &self,
        request: Request<pb::SuspendEnvironmentsRequest>,
    ) -> Reply<pb::SuspendEnvironmentsResponse> {
        let call = Call::of(request)?;
        let (org_id, reason) = (call.message.org_id.parse()?, reason(call.message.reason()));
        let suspend = async |tx: &mut Tx| {
            let suspended = operate::suspend(tx, org_id, reason).await?;
            Ok(pb::SuspendEnvironmentsResponse { suspended })
        };
        reply(self.db.write(&call, suspend).await?)
    }

    async fn lift_suspensions(
        &self,
        request: Request<pb::LiftSuspensionsRequest>,
    ) -> Reply<pb::LiftSuspensionsResponse> {
        let call = Call::of(request)?;
        let (org_id, reason) = (call.message.org_id.parse()?, reason(call.message.reason()));
        let lift = async |tx: &mut Tx| {
            let lifted = operate::lift(tx, org_id, reason).await?;
            Ok(pb::LiftSuspensionsResponse { lifted })
        };
        reply(self.db.write(&call, lift).await?)
    }
}

fn reason(it: pb::PauseReason) -> PauseReason {
    match it {
        pb::PauseReason::Quota => PauseReason::Quota,
        pb::PauseReason::Billing => PauseReason::Billing,
        _ => PauseReason::User,
    }
}
