//! SQL statements about deploy keys that no connection uses.

use chassis::{Changed, Db, Error, Grant, OrgId, Result, Tx};
use project_rules::{
    connection::deploy_key::{DeployKey, UNUSED_MAX},
    types::DeployKeyId,
};
use sqlx::{query, query_as, query_scalar};

/// Stores a new key and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<DeployKey>) -> Result<DeployKey> {
    let key = created.state();
    query!(
        "insert into git_deploy_key (id, org_id, sealed, public_key, creator_id, created_at)
         values ($1, $2, $3, $4, $5, $6)",
        key.id as _,
        key.org_id as _,
        key.sealed,
        key.public_key,
        key.creator_id as _,
        key.created_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(created))
}

/// Counts the keys of an organization.
pub(crate) async fn count(tx: &mut Tx, org_id: OrgId) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from git_deploy_key where org_id = $1"#,
        org_id.0
    );
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Returns a key.
pub(crate) async fn get(db: &Db, grant: &Grant, id: DeployKeyId) -> Result<DeployKey> {
    let key = query_as!(
        DeployKey,
        "select id, org_id, sealed, public_key, creator_id, created_at from git_deploy_key
         where org_id = $1 and id = $2",
        grant.org_id().0,
        id.0
    );
    key.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(DeployKeyId::NOUN))
}

/// Deletes a key that becomes part of a connection. Fails if another connection took it meanwhile.
pub(crate) async fn take(tx: &mut Tx, org_id: OrgId, id: DeployKeyId) -> Result<()> {
    let deleted =
        query!("delete from git_deploy_key where org_id = $1 and id = $2", org_id.0, id.0);
    match deleted.execute(tx.conn()).await?.rows_affected() {
        0 => Err(Error::NotFound(DeployKeyId::NOUN)),
        _ => Ok(()),
    }
}

/// Deletes keys that no connection used in time. Returns how many.
pub(crate) async fn delete_expired(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - UNUSED_MAX;
    // Keys of all organizations (no org_id).
    let deleted = query!(
        "delete from git_deploy_key where id in
             (select id from git_deploy_key where created_at < $1 order by created_at limit 1000)",
        before
    );
    Ok(deleted.execute(tx.conn()).await?.rows_affected())
}
