//! gRPC service of objects, for other services of the suite.

use std::sync::Arc;

use api::project::{self as pb, storage_object_service_server::StorageObjectService};
use chassis::{Call, Db, Error, OrgId, Reply, Tx, reply};
use project_rules::{
    connection::{StorageConsumer, storage::ObjectPath},
    types::StorageConnectionId,
    variable::Vault,
};
use tonic::Request;
use uuid::Uuid;

use crate::{connection::storage::client::StorageClient, store};

/// Implementation of `StorageObjectService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) vault: Vault,
    pub(crate) client: Arc<StorageClient>,
}

/// Parses the id of a consumer of a connection.
fn consumer_id(text: &str) -> Result<Uuid, Error> {
    text.parse().map_err(|_| Error::invalid("consumer_id", "must be a UUID"))
}

#[tonic::async_trait]
impl StorageObjectService for Rpc {
    async fn put_object(
        &self,
        request: Request<pb::PutObjectRequest>,
    ) -> Reply<pb::PutObjectResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let org_id: OrgId = message.org_id.parse()?;
        let id: StorageConnectionId = message.storage_connection_id.parse()?;
        let key = ObjectPath::parse(&message.key).filter(|it| !it.as_str().is_empty());
        let key = key.ok_or_else(|| Error::invalid("key", "must be a relative path"))?;
        let connection = store::storage_connection::get(&self.db, org_id, id).await?;
        let access = connection.settings(&self.vault)?.access(org_id)?;
        self.client.put(&access, &key, message.data.clone()).await?;
        reply(pb::PutObjectResponse {})
    }

    async fn register_storage_use(
        &self,
        request: Request<pb::RegisterStorageUseRequest>,
    ) -> Reply<pb::RegisterStorageUseResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let org_id: OrgId = message.org_id.parse()?;
        let id: StorageConnectionId = message.storage_connection_id.parse()?;
        let consumer = StorageConsumer {
            id: consumer_id(&message.consumer_id)?.to_string(),
            name: message.name.clone(),
        };
        let register = async |tx: &mut Tx| {
            let connection = store::storage_connection::lock(tx, org_id, id).await?;
            store::storage_connection::register_use(tx, &connection, &consumer).await?;
            Ok(pb::RegisterStorageUseResponse {})
        };
        reply(self.db.write(&call, register).await?)
    }

    async fn remove_storage_use(
        &self,
        request: Request<pb::RemoveStorageUseRequest>,
    ) -> Reply<pb::RemoveStorageUseResponse> {
        let call = Call::of(request)?;
        let org_id: OrgId = call.message.org_id.parse()?;
        let consumer_id = consumer_id(&call.message.consumer_id)?;
        let remove = async |tx: &mut Tx| {
            store::storage_connection::remove_use(tx, org_id, consumer_id).await?;
            Ok(pb::RemoveStorageUseResponse {})
        };
        reply(self.db.write(&call, remove).await?)
    }
}
