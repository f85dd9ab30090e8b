//! The gRPC surface of environments.

use api::{
    identity::{GetLimitsRequest, organization_service_client::OrganizationServiceClient},
    project::{self as pb, environment_service_server::EnvironmentService},
};
use chassis::{
    Access, Call, Db, Reply, Result, Tx, call::Context, error::remote, link::Link, page::Pager,
    reply,
};
use tonic::Request;

use super::{Draft, Environment, store};
use crate::task;

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) identity: Link,
}

impl Rpc {
    /// How many environments the organization's plan allows.
    async fn limit(&self, context: &Context, org_id: &str) -> Result<Option<i64>> {
        let question = GetLimitsRequest { org_id: org_id.to_owned() };
        let mut identity = OrganizationServiceClient::new(self.identity.clone());
        let limits = identity.get_limits(context.forward(question)).await;
        let limits = limits.map_err(remote("identity"))?.into_inner().limits;
        Ok(limits.into_iter().find(|it| it.key == "environments").and_then(|it| it.value))
    }
}

#[tonic::async_trait]
impl EnvironmentService for Rpc {
    async fn create_environment(
        &self,
        request: Request<pb::CreateEnvironmentRequest>,
    ) -> Reply<pb::CreateEnvironmentResponse> {
        let call = Call::of(request)?;
        let grant =
            self.access.project(&call, &call.message.org_id, &call.message.project_id).await?;
        let draft = Draft::try_from(&call.message)?;
        let limit = self.limit(&call, &call.message.org_id).await?;
        let create = async |tx: &mut Tx| {
            if limit.is_some() {
                Environment::fits(store::count(tx, grant.org_id()).await?, limit)?;
            }
            let branch = store::default_branch(tx, &grant).await?;
            let it = store::insert(tx, Environment::create(&grant, draft, branch, tx.now)).await?;
            Ok(pb::CreateEnvironmentResponse { environment: Some((&it).into()) })
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

    async fn deploy_environment(
        &self,
        request: Request<pb::DeployEnvironmentRequest>,
    ) -> Reply<pb::DeployEnvironmentResponse> {
        let call = Call::of(request)?;
        let grant =
            self.access.project(&call, &call.message.org_id, &call.message.project_id).await?;
        let id = call.message.environment_id.parse()?;
        let deploy = async |tx: &mut Tx| {
            let it = store::lock(tx, (grant.org_id(), grant.project_id()), id).await?;
            let active = task::store::active(tx, &it).await?;
            let (_, task) = store::save(tx, it.deploy(&grant, active.as_ref(), tx.now)?).await?;
            Ok(pb::DeployEnvironmentResponse { task: Some((&task).into()) })
        };
        reply(self.db.write(&call, deploy).await?)
    }
}
