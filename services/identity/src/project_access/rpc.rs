//! gRPC methods of grants on projects.

use api::identity::{self as pb, project_access_service_server::ProjectAccessService};
use chassis::{Access, Call, Db, Reply, Tx, page::Pager, reply};
use identity_rules::{
    policy::ProjectRole,
    types::{Principal, ProjectRef},
};
use tonic::Request;

use super::{commands, store};

/// The service and what its methods need.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
}

#[tonic::async_trait]
impl ProjectAccessService for Rpc {
    async fn list_project_access(
        &self,
        request: Request<pb::ListProjectAccessRequest>,
    ) -> Reply<pb::ListProjectAccessResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization =
            self.access.project(&call, &message.org_id, &message.project_id).await?;
        let org_id = authorization.org_id();
        let project_id = authorization.project_id();
        let filter: [&str; 2] = [&message.org_id, &message.project_id];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let rows = store::list(&self.db, org_id, project_id, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.to_string());
        let grants = rows.iter().map(Into::into).collect();
        reply(pb::ListProjectAccessResponse { grants, next_page_token })
    }

    async fn set_project_access(
        &self,
        request: Request<pb::SetProjectAccessRequest>,
    ) -> Reply<pb::SetProjectAccessResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization =
            self.access.project(&call, &message.org_id, &message.project_id).await?;
        let principal = Principal::try_from(&message.principal)?;
        let role = ProjectRole::try_from(message.role())?;
        let set = async |tx: &mut Tx| {
            Ok(commands::set(tx, &authorization, principal, role).await?.into())
        };
        reply(self.db.write(&call, set).await?)
    }

    async fn remove_project_access(
        &self,
        request: Request<pb::RemoveProjectAccessRequest>,
    ) -> Reply<pb::RemoveProjectAccessResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization =
            self.access.project(&call, &message.org_id, &message.project_id).await?;
        let principal = Principal::try_from(&message.principal)?;
        let remove =
            async |tx: &mut Tx| Ok(commands::remove(tx, &authorization, principal).await?.into());
        reply(self.db.write(&call, remove).await?)
    }

    async fn register_project(
        &self,
        request: Request<pb::RegisterProjectRequest>,
    ) -> Reply<pb::RegisterProjectResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        let org_id = call.message.org_id.parse()?;
        let project_id = call.message.project_id.parse()?;
        let project = ProjectRef { org_id, project_id };
        let register = async |tx: &mut Tx| {
            let token = commands::register_project(tx, account, project).await?;
            Ok(pb::RegisterProjectResponse { consistency_token: token.encode() })
        };
        reply(self.db.write(&call, register).await?)
    }
}
