//! Every SQL statement about accounts.

use chassis::{Changed, Db, Result, Tx, UserId};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{User, Verification};

/// Stores a new account and its event, unless the address has one already.
pub(crate) async fn insert(
    tx: &mut Tx,
    created: Changed<User>,
    canonical_email: &str,
    password_hash: &str,
) -> Result<Option<User>> {
    let it = created.state();
    let inserted = query!(
        "insert into account (id, email, canonical_email, display_name, password_hash, created_at)
         values ($1, $2, $3, $4, $5, $6) on conflict on constraint account_email do nothing",
        it.id as _,
        it.email as _,
        canonical_email,
        it.display_name,
        password_hash,
        it.created_at,
    )
    .execute(tx.conn())
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(None);
    }
    tx.emit(created).await.map(Some)
}

/// Loads an account and keeps others from changing it.
pub(crate) async fn lock(tx: &mut Tx, id: UserId) -> Result<Option<User>> {
    let user = query_as!(
        User,
        "select id, email, display_name, email_verified_at, created_at
         from account where id = $1 for update",
        id.0
    );
    Ok(user.fetch_optional(tx.conn()).await?)
}

/// Stores an account's confirmation and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<User>) -> Result<User> {
    let it = changed.state();
    query!(
        "update account set email_verified_at = $2 where id = $1",
        it.id as _,
        it.email_verified_at
    )
    .execute(tx.conn())
    .await?;
    tx.emit(changed).await
}

/// One account.
pub(crate) async fn get(db: &Db, id: UserId) -> Result<Option<User>> {
    let user = query_as!(
        User,
        "select id, email, display_name, email_verified_at, created_at from account where id = $1",
        id.0
    );
    Ok(user.fetch_optional(db.pool()).await?)
}

/// The canonical address of an account.
pub(crate) async fn canonical_email(tx: &mut Tx, id: UserId) -> Result<String> {
    let email = query_scalar!("select canonical_email from account where id = $1", id.0);
    Ok(email.fetch_one(tx.conn()).await?)
}

/// Stores a link.
pub(crate) async fn insert_verification(tx: &mut Tx, it: &Verification) -> Result<()> {
    query!(
        "insert into verification (id, user_id, canonical_email, secret_hash, expires_at)
         values ($1, $2, $3, $4, $5)",
        it.id,
        it.user_id as _,
        it.canonical_email,
        it.secret_hash,
        it.expires_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Loads a link and keeps others from using it.
pub(crate) async fn lock_verification(tx: &mut Tx, id: Uuid) -> Result<Option<Verification>> {
    let link = query_as!(
        Verification,
        "select id, user_id, canonical_email, secret_hash, expires_at, used_at
         from verification where id = $1 for update",
        id
    );
    Ok(link.fetch_optional(tx.conn()).await?)
}

/// Marks a link as used.
pub(crate) async fn use_verification(tx: &mut Tx, id: Uuid) -> Result<()> {
    let now = tx.now;
    query!("update verification set used_at = $2 where id = $1", id, now)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// When the newest link of an account ends.
pub(crate) async fn last_link_ends_at(tx: &mut Tx, id: UserId) -> Result<Option<OffsetDateTime>> {
    let last = query_scalar!("select max(expires_at) from verification where user_id = $1", id.0);
    Ok(last.fetch_one(tx.conn()).await?)
}

/// The account that a link is for, and whether it is wanted any more.
pub(crate) async fn addressee(db: &Db, verification_id: Uuid) -> Result<Option<User>> {
    let user = query_as!(
        User,
        "select account.id, account.email, account.display_name, account.email_verified_at, account.created_at
         from verification join account on account.id = verification.user_id
         where verification.id = $1 and verification.used_at is null",
        verification_id
    );
    Ok(user.fetch_optional(db.pool()).await?)
}
