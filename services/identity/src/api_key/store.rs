//! Every SQL statement about API keys.

use std::sync::Arc;

use chassis::{
    Account, Changed, Db, Error, KeyPower, OrgId, ProjectId, Result, Tx, UserId, page::Page,
};
use sqlx::{query, query_as, query_scalar};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::ApiKey;
use crate::session::store::Proof;

/// Stores a new key and its event.
pub(crate) async fn insert(
    tx: &mut Tx,
    created: Changed<ApiKey>,
    secret_hash: &[u8],
) -> Result<ApiKey> {
    let it = created.state();
    query!(
        "insert into api_key (id, org_id, project_id, name, is_full, owner_id, secret_hash, created_at,
             expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        it.id,
        it.org_id as _,
        it.project_id as _,
        it.name,
        it.is_full,
        it.owner_id as _,
        secret_hash,
        it.created_at,
        it.expires_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(created))
}

/// Loads a key and keeps others from changing it. With a project, only a key of that project.
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

/// The keys of a project that are good, or were, and keeps others from changing them.
pub(crate) async fn of_project(
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

/// Stores the end of a key and its event.
pub(crate) async fn revoke(tx: &mut Tx, revoked: Changed<ApiKey>) -> Result<ApiKey> {
    let it = revoked.state();
    query!(
        "update api_key set revoked_at = $3 where org_id = $1 and id = $2",
        it.org_id as _,
        it.id,
        it.revoked_at
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(revoked))
}

/// The living keys of a member.
pub(crate) async fn of_owner(tx: &mut Tx, org_id: OrgId, owner_id: UserId) -> Result<Vec<Uuid>> {
    let ids = query_scalar!(
        "select id from api_key where org_id = $1 and owner_id = $2 and revoked_at is null order by id",
        org_id.0,
        owner_id.0
    );
    Ok(ids.fetch_all(tx.conn()).await?)
}

/// Ends every key of a member, which the event of their going tells.
pub(crate) async fn revoke_all_of(tx: &mut Tx, org_id: OrgId, owner_id: UserId) -> Result<()> {
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

/// A page of the keys of an organization, or of one of its projects.
pub(crate) async fn list(
    db: &Db,
    org_id: OrgId,
    project_id: Option<ProjectId>,
    page: &Page,
) -> Result<Vec<ApiKey>> {
    let keys = query_as!(
        ApiKey,
        "select id, org_id, project_id, name, is_full, owner_id, created_at, expires_at,
                last_used_at, revoked_at
         from api_key
         where org_id = $1 and ($2::uuid is null or project_id = $2) and ($3::uuid is null or id > $3)
         order by id limit $4",
        org_id.0,
        project_id.map(|it| it.0),
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(keys.fetch_all(db.pool()).await?)
}

/// How many keys of an organization live.
pub(crate) async fn count(db: &Db, org_id: OrgId) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from api_key where org_id = $1 and revoked_at is null"#,
        org_id.0
    );
    Ok(count.fetch_one(db.pool()).await?)
}

/// What a living key proves.
pub(crate) async fn proof(db: &Db, id: Uuid) -> Result<Option<Proof>> {
    // By id alone (no org_id): the key itself says of which organization it is.
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
    Ok(row.map(|it| {
        let (org_id, project_id) = (it.org_id, it.project_id);
        let power = KeyPower { org_id, project_id, full: it.is_full, name: it.name };
        let account = Account {
            user_id: it.id,
            email: it.email,
            display_name: it.display_name,
            email_verified: it.email_verified,
            credential_id: id,
            key: Some(power),
            authenticated_at: None,
        };
        Proof {
            account,
            secret_hash: it.secret_hash,
            expires_at: it.expires_at,
            last_used_at: it.last_used_at,
            use_recorded: Arc::default(),
        }
    }))
}

/// Notes that a key was used, at most once a minute (I-14).
pub(crate) async fn used(db: &Db, id: Uuid, now: OffsetDateTime) -> Result<()> {
    // By id alone (no org_id), as it was found.
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
