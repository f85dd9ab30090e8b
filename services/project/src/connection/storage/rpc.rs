//! gRPC service of storage connections.

use std::sync::Arc;

use api::project::{self as pb, storage_connection_service_server::StorageConnectionService};
use chassis::{Access, Call, Db, Grant, Refusal, Reply, Tx, page::Pager, reply};
use project_rules::{
    connection::storage::{Draft, Patch, StorageConnection},
    variable::Vault,
};
use tonic::Request;

use super::{
    client::StorageClient,
    commands::{Connections, TestResult},
};
use crate::store;

/// Implementation of `StorageConnectionService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) vault: Vault,
    pub(crate) client: Arc<StorageClient>,
}

impl Rpc {
    fn connections<'a>(&'a self, grant: &'a Grant) -> Connections<'a> {
        Connections { db: &self.db, grant, vault: &self.vault, client: &self.client }
    }
}

#[tonic::async_trait]
impl StorageConnectionService for Rpc {
    async fn create_storage_connection(
        &self,
        request: Request<pb::CreateStorageConnectionRequest>,
    ) -> Reply<pb::CreateStorageConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let draft = Draft::from_request(&call.message)?;
        let response = |it: &StorageConnection| pb::CreateStorageConnectionResponse {
            storage_connection: Some(it.into()),
        };
        reply(self.connections(&grant).create(&call, draft, response).await?)
    }

    async fn test_storage_connection(
        &self,
        request: Request<pb::TestStorageConnectionRequest>,
    ) -> Reply<pb::TestStorageConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.storage_connection_id.parse()?;
        let response = |it: TestResult| {
            let reason = it.failure.as_ref().map(|it| it.reason().as_str_name());
            pb::TestStorageConnectionResponse {
                storage_connection: Some((&it.connection).into()),
                success: it.failure.is_none(),
                error_message: it.failure.as_ref().map(ToString::to_string).unwrap_or_default(),
                reason: reason.unwrap_or_default().trim_start_matches("REASON_").to_owned(),
            }
        };
        reply(self.connections(&grant).test_stored(&call, id, response).await?)
    }

    async fn get_storage_connection(
        &self,
        request: Request<pb::GetStorageConnectionRequest>,
    ) -> Reply<pb::GetStorageConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.storage_connection_id.parse()?;
        let connection = store::storage_connection::get(&self.db, grant.org_id(), id).await?;
        reply(pb::GetStorageConnectionResponse { storage_connection: Some((&connection).into()) })
    }

    async fn list_storage_connections(
        &self,
        request: Request<pb::ListStorageConnectionsRequest>,
    ) -> Reply<pb::ListStorageConnectionsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let page =
            self.pager.page(&call, message.page_size, &message.page_token, &[&message.org_id])?;
        let rows = store::storage_connection::list(&self.db, &grant, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
        let storage_connections = rows.iter().map(Into::into).collect();
        reply(pb::ListStorageConnectionsResponse { storage_connections, next_page_token })
    }

    async fn update_storage_connection(
        &self,
        request: Request<pb::UpdateStorageConnectionRequest>,
    ) -> Reply<pb::UpdateStorageConnectionResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let patch = Patch::from_request(message)?;
        let id = message.storage_connection_id.parse()?;
        let response = |it: &StorageConnection| pb::UpdateStorageConnectionResponse {
            storage_connection: Some(it.into()),
        };
        reply(self.connections(&grant).update(&call, id, patch, &message.etag, response).await?)
    }

    async fn set_default_storage_connection(
        &self,
        request: Request<pb::SetDefaultStorageConnectionRequest>,
    ) -> Reply<pb::SetDefaultStorageConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.storage_connection_id.parse()?;
        let set = async |tx: &mut Tx| {
            let connection = self.connections(&grant).set_default(tx, id).await?;
            Ok(pb::SetDefaultStorageConnectionResponse {
                storage_connection: Some((&connection).into()),
            })
        };
        reply(self.db.write(&call, set).await?)
    }

    async fn delete_storage_connection(
        &self,
        request: Request<pb::DeleteStorageConnectionRequest>,
    ) -> Reply<pb::DeleteStorageConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.storage_connection_id.parse()?;
        let delete = async |tx: &mut Tx| {
            self.connections(&grant).delete(tx, id).await?;
            Ok(pb::DeleteStorageConnectionResponse {})
        };
        reply(self.db.write(&call, delete).await?)
    }
}
