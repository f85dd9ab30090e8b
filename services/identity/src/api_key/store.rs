//! SQL of API keys.

use std::{sync::Arc, time::Instant};

use chassis::{
    Account, ApiKeyScope, Changed, Db, Error, OrgId, ProjectId, Result, Tx, UserId, page::Page,
};
use identity_rules::api_key::ApiKey;
use sqlx::{query, query_as, query_scalar};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::credential::StoredCredential;

/// Stores a new key and its event.
pub(crate) async fn insert(
    tx: &mut Tx,
    created: Changed<ApiKey>,
    secret_hash: &[u8],
) -> Result<ApiKey> {
    let key = created.state();
    query!(
        "insert into api_key (id, org_id, project_id, name, is_full, owner_id, secret_hash, created_at,
             expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        key.id,
        key.org_id as _,
        key.project_id as _,
        key.name,
        key.is_full,
        key.owner_id as _,
        secret_hash,
        key.created_at,
        key.expires_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(created))
}

/// Locks a key and returns it, or `NotFound`. With `project_id`, only a key that is bound to that project.
pub(crate) async fn lock(
    tx: &mut Tx,
    org_id: OrgId,
    project_id: Option<ProjectId>,
    id: Uuid,
) -> Result<ApiKey> {
    let key = query_as!(
        ApiKey,
        "select id, org_id, project_id, name, is_full, owner_id, created_at, expires_at,
                last_used_at, revoked_at
         from api_key where org_id = $1 and id = $2 and ($3::uuid is null or project_id = $3) for update",
        org_id.0,
        id,
        project_id.map(|it| it.0),
    );
    key.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound("api_key"))
}

/// Locks the keys that are bound to a project, also the revoked ones, and returns them.
pub(crate) async fn lock_of_project(
    tx: &mut Tx,
    org_id: OrgId,
    project_id: ProjectId,
) -> Result<Vec<ApiKey>> {
    let keys = query_as!(
        ApiKey,
        "select id, org_id, project_id, name, is_full, owner_id, created_at, expires_at,
                last_used_at, revoked_at
         from api_key where org_id = $1 and project_id = $2 order by id for update",
        org_id.0,
        project_id.0,
    );
    Ok(keys.fetch_all(tx.conn()).await?)
}

/// Stores a revoked key and its event.
pub(crate) async fn revoke(tx: &mut Tx, revoked: Changed<ApiKey>) -> Result<ApiKey> {
    let key = revoked.state();
    query!(
        "update api_key set revoked_at = $3 where org_id = $1 and id = $2",
        key.org_id as _,
        key.id,
        key.revoked_at
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(revoked))
}

/// Returns the ids of a member's keys that are not revoked.
pub(crate) async fn active_keys_of_owner(
    tx: &mut Tx,
    org_id: OrgId,
    owner_id: UserId,
) -> Result<Vec<Uuid>> {
    let ids = query_scalar!(
        "select id from api_key where org_id = $1 and owner_id = $2 and revoked_at is null order by id",
        org_id.0,
        owner_id.0
    );
    Ok(ids.fetch_all(tx.conn()).await?)
}

/// Revokes every key of a member without emitting an event: the event of the ended membership lists them.
pub(crate) async fn revoke_all_of_owner(
    tx: &mut Tx,
    org_id: OrgId,
    owner_id: UserId,
) -> Result<()> {
    let now = tx.now;
    query!(
        "update api_key set revoked_at = $3 where org_id = $1 and owner_id = $2 and revoked_at is null",
        org_id.0,
        owner_id.0,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns a page of the keys of an organization.
pub(crate) async fn list(db: &Db, org_id: OrgId, page: &Page) -> Result<Vec<ApiKey>> {
    let keys = query_as!(
        ApiKey,
        "select id, org_id, project_id, name, is_full, owner_id, created_at, expires_at,
                last_used_at, revoked_at
         from api_key
         where org_id = $1 and id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
         order by id limit $3",
        org_id.0,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(keys.fetch_all(db.pool()).await?)
}

/// Returns a page of the keys that are bound to a project.
pub(crate) async fn list_of_project(
    db: &Db,
    org_id: OrgId,
    project_id: ProjectId,
    page: &Page,
) -> Result<Vec<ApiKey>> {
    let keys = query_as!(
        ApiKey,
        "select id, org_id, project_id, name, is_full, owner_id, created_at, expires_at,
                last_used_at, revoked_at
         from api_key
         where org_id = $1 and project_id = $2
               and id > coalesce($3, '00000000-0000-0000-0000-000000000000'::uuid)
         order by id limit $4",
        org_id.0,
        project_id.0,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(keys.fetch_all(db.pool()).await?)
}

/// Counts the keys of an organization that are not revoked.
pub(crate) async fn count_active(db: &Db, org_id: OrgId) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from api_key where org_id = $1 and revoked_at is null"#,
        org_id.0
    );
    Ok(count.fetch_one(db.pool()).await?)
}

/// Returns a key that is not revoked, as a credential of its owner.
pub(crate) async fn credential(db: &Db, id: Uuid) -> Result<Option<StoredCredential>> {
    let verified_at = Instant::now();
    // By id alone (no org_id): the organization is known only from the key.
    let row = query!(
        r#"select account.id, account.email as "email: String", account.display_name,
                  account.email_verified_at is not null as "email_verified!",
                  api_key.org_id, api_key.project_id, api_key.name, api_key.is_full, api_key.secret_hash,
                  api_key.expires_at, api_key.last_used_at
           from api_key join account on account.id = api_key.owner_id
           where api_key.id = $1 and api_key.revoked_at is null"#,
        id
    )
    .fetch_optional(db.pool())
    .await?;
    Ok(row.map(|row| {
        let scope = ApiKeyScope {
            org_id: row.org_id,
            project_id: row.project_id,
            full: row.is_full,
            name: row.name,
        };
        let account = Account {
            user_id: row.id,
            email: row.email,
            display_name: row.display_name,
            email_verified: row.email_verified,
            credential_id: id,
            key: Some(scope),
            authenticated_at: None,
        };
        StoredCredential {
            account,
            secret_hash: row.secret_hash,
            verified_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            use_recorded: Arc::default(),
        }
    }))
}

/// Records the time of a use, at most once a minute.
pub(crate) async fn record_use(db: &Db, id: Uuid, now: OffsetDateTime) -> Result<()> {
    // By id alone (no org_id), like `credential`.
    let before = now - Duration::minutes(1);
    query!(
        "update api_key set last_used_at = $2 where id = $1 and (last_used_at is null or last_used_at < $3)",
        id,
        now,
        before
    )
    .execute(db.pool())
    .await?;
    Ok(())
}
