//! gRPC service of Git connections.

use std::sync::Arc;

use api::project::{self as pb, git_connection_service_server::GitConnectionService};
use chassis::{Access, Call, Db, Grant, Refusal, Reply, Tx, page::Pager, reply};
use project_rules::{
    connection::git::{Draft, GitConnection, Patch},
    variable::Vault,
};
use tonic::Request;

use super::{
    commands::{Connections, TestResult},
    listing::{self, Listed},
    probe::Prober,
};
use crate::store;

/// Implementation of `GitConnectionService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) vault: Vault,
    pub(crate) prober: Arc<Prober>,
    /// Allows `http://` with a loopback address.
    pub(crate) local_repositories: bool,
}

impl Rpc {
    fn connections<'a>(&'a self, grant: &'a Grant) -> Connections<'a> {
        Connections { db: &self.db, grant, vault: &self.vault, prober: &self.prober }
    }
}

#[tonic::async_trait]
impl GitConnectionService for Rpc {
    async fn create_deploy_key(
        &self,
        request: Request<pb::CreateDeployKeyRequest>,
    ) -> Reply<pb::CreateDeployKeyResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let create = async |tx: &mut Tx| {
            let key = self.connections(&grant).create_deploy_key(tx).await?;
            Ok(pb::CreateDeployKeyResponse { deploy_key: Some((&key).into()) })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn create_git_connection(
        &self,
        request: Request<pb::CreateGitConnectionRequest>,
    ) -> Reply<pb::CreateGitConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let draft = Draft::from_request(&call.message, self.local_repositories)?;
        let response = |it: &GitConnection| pb::CreateGitConnectionResponse {
            git_connection: Some(it.into()),
        };
        reply(self.connections(&grant).create(&call, draft, response).await?)
    }

    async fn test_git_connection(
        &self,
        request: Request<pb::TestGitConnectionRequest>,
    ) -> Reply<pb::TestGitConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.git_connection_id.parse()?;
        let response = |it: TestResult| {
            let reason = it.failure.as_ref().map(|it| it.reason().as_str_name());
            pb::TestGitConnectionResponse {
                git_connection: Some((&it.connection).into()),
                success: it.failure.is_none(),
                error_message: it.failure.as_ref().map(ToString::to_string).unwrap_or_default(),
                reason: reason.unwrap_or_default().trim_start_matches("REASON_").to_owned(),
            }
        };
        reply(self.connections(&grant).test_stored(&call, id, response).await?)
    }

    async fn get_git_connection(
        &self,
        request: Request<pb::GetGitConnectionRequest>,
    ) -> Reply<pb::GetGitConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.git_connection_id.parse()?;
        let connection = store::git_connection::get(&self.db, &grant, id).await?;
        reply(pb::GetGitConnectionResponse { git_connection: Some((&connection).into()) })
    }

    async fn list_git_connections(
        &self,
        request: Request<pb::ListGitConnectionsRequest>,
    ) -> Reply<pb::ListGitConnectionsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let page =
            self.pager.page(&call, message.page_size, &message.page_token, &[&message.org_id])?;
        let rows = store::git_connection::list(&self.db, &grant, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
        let git_connections = rows.iter().map(Into::into).collect();
        reply(pb::ListGitConnectionsResponse { git_connections, next_page_token })
    }

    async fn list_repositories(
        &self,
        request: Request<pb::ListRepositoriesRequest>,
    ) -> Reply<pb::ListRepositoriesResponse> {
        let call = Call::of(request)?;
        let pb::ListRepositoriesRequest { org_id, git_connection_id, page_size, page_token } =
            &call.message;
        let grant = self.access.org(&call, org_id).await?;
        let page = self.pager.page(&call, *page_size, page_token, &[org_id, git_connection_id])?;
        let id = git_connection_id.parse()?;
        let connection = store::git_connection::get(&self.db, &grant, id).await?;
        let settings = connection.settings(&self.vault)?;
        let Listed { rows, next_page_token } =
            listing::repositories(&self.prober, &settings, &page).await?;
        reply(pb::ListRepositoriesResponse { repositories: rows, next_page_token })
    }

    async fn list_branches(
        &self,
        request: Request<pb::ListBranchesRequest>,
    ) -> Reply<pb::ListBranchesResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let filter = [&*message.org_id, &message.git_connection_id, &message.repository_url];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let id = message.git_connection_id.parse()?;
        let connection = store::git_connection::get(&self.db, &grant, id).await?;
        let settings = connection.settings(&self.vault)?;
        let probe = settings.probe_of(&message.repository_url, self.local_repositories)?;
        let Listed { rows, next_page_token } =
            listing::branches(&self.prober, &probe, &page).await?;
        reply(pb::ListBranchesResponse { branches: rows, next_page_token })
    }

    async fn update_git_connection(
        &self,
        request: Request<pb::UpdateGitConnectionRequest>,
    ) -> Reply<pb::UpdateGitConnectionResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let patch = Patch::from_request(message, self.local_repositories)?;
        let id = message.git_connection_id.parse()?;
        let response = |it: &GitConnection| pb::UpdateGitConnectionResponse {
            git_connection: Some(it.into()),
        };
        reply(self.connections(&grant).update(&call, id, patch, &message.etag, response).await?)
    }

    async fn set_default_git_connection(
        &self,
        request: Request<pb::SetDefaultGitConnectionRequest>,
    ) -> Reply<pb::SetDefaultGitConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.git_connection_id.parse()?;
        let set = async |tx: &mut Tx| {
            let connection = self.connections(&grant).set_default(tx, id).await?;
            Ok(pb::SetDefaultGitConnectionResponse { git_connection: Some((&connection).into()) })
        };
        reply(self.db.write(&call, set).await?)
    }

    async fn delete_git_connection(
        &self,
        request: Request<pb::DeleteGitConnectionRequest>,
    ) -> Reply<pb::DeleteGitConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.git_connection_id.parse()?;
        let delete = async |tx: &mut Tx| {
            self.connections(&grant).delete(tx, id).await?;
            Ok(pb::DeleteGitConnectionResponse {})
        };
        reply(self.db.write(&call, delete).await?)
    }
}
