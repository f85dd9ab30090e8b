//! The gRPC surface of API keys.

use api::identity::{self as pb, api_key_service_server::ApiKeyService};
use chassis::{
    Access, Call, Db, Grant, Reply, Result, Tx,
    page::Pager,
    reply,
    token::{Kind, Token},
};
use secrecy::ExposeSecret;
use tonic::Request;

use super::{ApiKey, Draft, store};
use crate::{
    access::{self, Proofs},
    organization::Organization,
    project_access,
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) proofs: Proofs,
}

#[tonic::async_trait]
impl ApiKeyService for Rpc {
    async fn create_api_key(
        &self,
        request: Request<pb::CreateApiKeyRequest>,
    ) -> Reply<pb::CreateApiKeyResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let draft = Draft::try_from(&call.message)?;
        let create = async |tx: &mut Tx| {
            let organization = access::lock(tx, &grant).await?;
            if let Some(project_id) = draft.project_id {
                project_access::store::require(tx, grant.org_id(), project_id).await?;
            }
            let (api_key, token) = create(tx, &grant, &organization, draft).await?;
            Ok(pb::CreateApiKeyResponse { api_key: Some(api_key), token })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn list_api_keys(
        &self,
        request: Request<pb::ListApiKeysRequest>,
    ) -> Reply<pb::ListApiKeysResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let page = self.pager.page(&call, it.page_size, &it.page_token, &[&it.org_id])?;
        let rows = store::list(&self.db, grant.org_id(), None, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.to_string());
        let api_keys = rows.iter().map(Into::into).collect();
        reply(pb::ListApiKeysResponse { api_keys, next_page_token })
    }

    async fn revoke_api_key(
        &self,
        request: Request<pb::RevokeApiKeyRequest>,
    ) -> Reply<pb::RevokeApiKeyResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = chassis::id::parse("api_key_id", &call.message.api_key_id)?;
        let revoke = async |tx: &mut Tx| {
            access::lock(tx, &grant).await?;
            let key = store::lock(tx, grant.org_id(), None, id).await?;
            let key = revoke(tx, key).await?;
            Ok(pb::RevokeApiKeyResponse { api_key: Some((&key).into()) })
        };
        let revoked = self.db.write(&call, revoke).await?;
        // Other replicas forget within a second, and never let it change anything; this one at once.
        self.proofs.invalidate(&id);
        reply(revoked)
    }

    async fn create_project_api_key(
        &self,
        request: Request<pb::CreateProjectApiKeyRequest>,
    ) -> Reply<pb::CreateProjectApiKeyResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let draft = Draft::try_from(&call.message)?;
        let create = async |tx: &mut Tx| {
            let organization = access::lock_project(tx, &grant).await?;
            let (api_key, token) = create(tx, &grant, &organization, draft).await?;
            Ok(pb::CreateProjectApiKeyResponse { api_key: Some(api_key), token })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn list_project_api_keys(
        &self,
        request: Request<pb::ListProjectApiKeysRequest>,
    ) -> Reply<pb::ListProjectApiKeysResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let page =
            self.pager.page(&call, it.page_size, &it.page_token, &[&it.org_id, &it.project_id])?;
        let of = Some(grant.project_id());
        let rows = store::list(&self.db, grant.org_id(), of, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.to_string());
        let api_keys = rows.iter().map(Into::into).collect();
        reply(pb::ListProjectApiKeysResponse { api_keys, next_page_token })
    }

    async fn revoke_project_api_key(
        &self,
        request: Request<pb::RevokeProjectApiKeyRequest>,
    ) -> Reply<pb::RevokeProjectApiKeyResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let id = chassis::id::parse("api_key_id", &it.api_key_id)?;
        let revoke = async |tx: &mut Tx| {
            access::lock_project(tx, &grant).await?;
            let of = Some(grant.project_id());
            let key = store::lock(tx, grant.org_id(), of, id).await?;
            let key = revoke(tx, key).await?;
            Ok(pb::RevokeProjectApiKeyResponse { api_key: Some((&key).into()) })
        };
        let revoked = self.db.write(&call, revoke).await?;
        self.proofs.invalidate(&id);
        reply(revoked)
    }
}

async fn create(
    tx: &mut Tx,
    grant: &Grant,
    organization: &Organization,
    draft: Draft,
) -> Result<(pb::ApiKey, String)> {
    let created = ApiKey::create(grant, organization, draft, tx.now)?;
    let token = Token::random(created.state().id);
    let key = store::insert(tx, created, &token.hash()).await?;
    Ok(((&key).into(), token.reveal(Kind::ApiKey).expose_secret().to_owned()))
}

async fn revoke(tx: &mut Tx, key: ApiKey) -> Result<ApiKey> {
    match key.revoke(tx.now) {
        Some(revoked) => store::revoke(tx, revoked).await,
        None => Ok(key),
    }
}
