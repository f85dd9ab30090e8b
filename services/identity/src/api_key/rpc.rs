//! gRPC methods of API keys.

use api::identity::{self as pb, api_key_service_server::ApiKeyService};
use chassis::{Access, Call, Db, Reply, Tx, page::Pager, reply};
use identity_rules::api_key::Draft;
use tonic::Request;

use super::{commands, store};
use crate::credential::CredentialCache;

/// The service and what its methods need.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    /// A revoked key is removed from this replica's cache at once. Other replicas keep it for up to a
    /// second, for reads only: writes load the credential again.
    pub(crate) credentials: CredentialCache,
}

#[tonic::async_trait]
impl ApiKeyService for Rpc {
    async fn create_api_key(
        &self,
        request: Request<pb::CreateApiKeyRequest>,
    ) -> Reply<pb::CreateApiKeyResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let draft = Draft::try_from(&call.message)?;
        let create =
            async |tx: &mut Tx| Ok(commands::create(tx, &authorization, draft).await?.into());
        reply(self.db.write(&call, create).await?)
    }

    async fn list_api_keys(
        &self,
        request: Request<pb::ListApiKeysRequest>,
    ) -> Reply<pb::ListApiKeysResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization = self.access.org(&call, &message.org_id).await?;
        let filter: [&str; 1] = [&message.org_id];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let rows = store::list(&self.db, authorization.org_id(), &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.to_string());
        let api_keys = rows.iter().map(Into::into).collect();
        reply(pb::ListApiKeysResponse { api_keys, next_page_token })
    }

    async fn revoke_api_key(
        &self,
        request: Request<pb::RevokeApiKeyRequest>,
    ) -> Reply<pb::RevokeApiKeyResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let id = chassis::id::parse("api_key_id", &call.message.api_key_id)?;
        let revoke = async |tx: &mut Tx| {
            let key = commands::revoke(tx, &authorization, id).await?;
            Ok(pb::RevokeApiKeyResponse { api_key: Some((&key).into()) })
        };
        let revoked = self.db.write(&call, revoke).await?;
        self.credentials.invalidate(&id);
        reply(revoked)
    }

    async fn create_project_api_key(
        &self,
        request: Request<pb::CreateProjectApiKeyRequest>,
    ) -> Reply<pb::CreateProjectApiKeyResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization =
            self.access.project(&call, &message.org_id, &message.project_id).await?;
        let draft = Draft::try_from(message)?;
        let create = async |tx: &mut Tx| {
            Ok(commands::create_for_project(tx, &authorization, draft).await?.into())
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn list_project_api_keys(
        &self,
        request: Request<pb::ListProjectApiKeysRequest>,
    ) -> Reply<pb::ListProjectApiKeysResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization =
            self.access.project(&call, &message.org_id, &message.project_id).await?;
        let filter: [&str; 2] = [&message.org_id, &message.project_id];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let (org_id, project_id) = (authorization.org_id(), authorization.project_id());
        let rows = store::list_of_project(&self.db, org_id, project_id, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.to_string());
        let api_keys = rows.iter().map(Into::into).collect();
        reply(pb::ListProjectApiKeysResponse { api_keys, next_page_token })
    }

    async fn revoke_project_api_key(
        &self,
        request: Request<pb::RevokeProjectApiKeyRequest>,
    ) -> Reply<pb::RevokeProjectApiKeyResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization =
            self.access.project(&call, &message.org_id, &message.project_id).await?;
        let id = chassis::id::parse("api_key_id", &message.api_key_id)?;
        let revoke = async |tx: &mut Tx| {
            let key = commands::revoke_for_project(tx, &authorization, id).await?;
            Ok(pb::RevokeProjectApiKeyResponse { api_key: Some((&key).into()) })
        };
        let revoked = self.db.write(&call, revoke).await?;
        self.credentials.invalidate(&id);
        reply(revoked)
    }
}
