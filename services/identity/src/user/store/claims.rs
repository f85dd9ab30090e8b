//! SQL of claims: accounts whose address is not confirmed.

use chassis::{Changed, Result, Tx, UserId};
use identity_rules::user::{User, claim::CLAIM_LIFETIME};
use sqlx::{query, query_scalar};

/// Expired claims that one step of the retention job deletes at most: each takes several statements.
const EXPIRED_BATCH: i64 = 50;

/// Waits until no other transaction registers, confirms or ends claims to an address. Taken before locks of
/// accounts and links.
pub(crate) async fn lock_address(tx: &mut Tx, canonical_email: &str) -> Result<()> {
    // The seed of the hash (2) differs from those of other locks, so that equal keys do not collide.
    query!("select pg_advisory_xact_lock(hashtextextended($1, 2))", canonical_email)
        .fetch_one(tx.conn())
        .await?;
    Ok(())
}

/// Returns the ids of the claims to an address, newest first.
pub(crate) async fn of_address(tx: &mut Tx, canonical_email: &str) -> Result<Vec<UserId>> {
    let ids = query_scalar!(
        "select id from account
         where canonical_email = $1 and email_verified_at is null and deleted_at is null
         order by created_at desc, id desc",
        canonical_email
    );
    Ok(ids.fetch_all(tx.conn()).await?)
}

/// Returns the ids of claims that have expired, oldest first. An account that is a member, or has created an
/// organization, is none: former versions may have let its address unconfirmed.
pub(crate) async fn expired(tx: &mut Tx) -> Result<Vec<UserId>> {
    // Over all organizations (no org_id): a claim belongs to none.
    let before = tx.now - CLAIM_LIFETIME;
    let ids = query_scalar!(
        "select id from account
         where email_verified_at is null and deleted_at is null and created_at < $1
           and not exists (select from member where user_id = account.id)
           and not exists (select from organization where created_by = account.id)
         order by created_at limit $2",
        before,
        EXPIRED_BATCH
    );
    Ok(ids.fetch_all(tx.conn()).await?)
}

/// Deletes the row of an ended claim, and stores the event. Everything that refers to the account must be
/// deleted before.
pub(crate) async fn delete(tx: &mut Tx, ended: Changed<User>) -> Result<()> {
    let id = ended.state().id;
    query!("delete from former_address where user_id = $1", id.0).execute(tx.conn()).await?;
    query!("delete from account where id = $1 and email_verified_at is null", id.0)
        .execute(tx.conn())
        .await?;
    tx.emit(ended);
    Ok(())
}
