//! Creation and revocation of API keys.

use chassis::{
    Grant, ProjectGrant, Result, Tx,
    token::{Kind, Token},
};
use identity_rules::{
    api_key::{ApiKey, Draft},
    organization::Organization,
};
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::store;
use crate::{access, project_access};

/// A new key, and its token, which is shown only once.
pub(super) struct CreatedKey {
    pub(super) key: ApiKey,
    pub(super) token: String,
}

/// Creates a key of an organization, or of one of its projects.
pub(super) async fn create(tx: &mut Tx, authorization: &Grant, draft: Draft) -> Result<CreatedKey> {
    let organization = access::lock(tx, authorization).await?;
    if let Some(project_id) = draft.project_id {
        let org_id = authorization.org_id();
        project_access::store::require_project(tx, org_id, project_id).await?;
    }
    insert(tx, authorization, &organization, draft).await
}

/// Creates a key of a project.
pub(super) async fn create_for_project(
    tx: &mut Tx,
    authorization: &ProjectGrant,
    draft: Draft,
) -> Result<CreatedKey> {
    let organization = access::lock_project(tx, authorization).await?;
    insert(tx, authorization, &organization, draft).await
}

/// Revokes a key of an organization. A key that is revoked already is returned as it is.
pub(super) async fn revoke(tx: &mut Tx, authorization: &Grant, id: Uuid) -> Result<ApiKey> {
    access::lock(tx, authorization).await?;
    let key = store::lock(tx, authorization.org_id(), None, id).await?;
    store_revocation(tx, key).await
}

/// Revokes a key that is bound to a project.
pub(super) async fn revoke_for_project(
    tx: &mut Tx,
    authorization: &ProjectGrant,
    id: Uuid,
) -> Result<ApiKey> {
    access::lock_project(tx, authorization).await?;
    let project_id = Some(authorization.project_id());
    let key = store::lock(tx, authorization.org_id(), project_id, id).await?;
    store_revocation(tx, key).await
}

async fn insert(
    tx: &mut Tx,
    authorization: &Grant,
    organization: &Organization,
    draft: Draft,
) -> Result<CreatedKey> {
    let created = ApiKey::create(authorization, organization, draft, tx.now)?;
    let token = Token::random(created.state().id);
    let key = store::insert(tx, created, &token.hash()).await?;
    Ok(CreatedKey { key, token: token.reveal(Kind::ApiKey).expose_secret().to_owned() })
}

async fn store_revocation(tx: &mut Tx, key: ApiKey) -> Result<ApiKey> {
    match key.revoke(tx.now) {
        Some(revoked) => store::revoke(tx, revoked).await,
        None => Ok(key),
    }
}
