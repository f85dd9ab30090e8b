//! SQL of sign-ins with identity providers, and of the linked identities.

use chassis::{Changed, Result, Tx, UserId};
use identity_rules::user::User;
use sqlx::{query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;
use worker::retention::BATCH;

/// Stores a started sign-in.
pub(crate) async fn insert(
    tx: &mut Tx,
    id: Uuid,
    sealed: &[u8],
    expires_at: OffsetDateTime,
) -> Result<()> {
    query!(
        "insert into external_login (id, sealed, expires_at) values ($1, $2, $3)",
        id,
        sealed,
        expires_at
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Marks a started sign-in as used and returns its encrypted secrets; `None` if it is unknown, used or
/// expired.
pub(crate) async fn consume(tx: &mut Tx, id: Uuid) -> Result<Option<Vec<u8>>> {
    let now = tx.now;
    let sealed = query_scalar!(
        "update external_login set used_at = $2
         where id = $1 and used_at is null and expires_at > $2 returning sealed",
        id,
        now
    );
    Ok(sealed.fetch_optional(tx.conn()).await?)
}

/// Deletes expired sign-ins.
pub(crate) async fn delete_expired(tx: &mut Tx) -> Result<u64> {
    let now = tx.now;
    let deleted = query!(
        "delete from external_login where id in (
             select id from external_login where expires_at < $1 order by expires_at limit $2)",
        now,
        BATCH
    );
    Ok(deleted.execute(tx.conn()).await?.rows_affected())
}

/// Returns the account to which an identity of a provider is linked.
pub(crate) async fn find_linked_account(
    tx: &mut Tx,
    issuer: &str,
    subject: &str,
) -> Result<Option<UserId>> {
    let id = query_scalar!(
        "select user_id from external_identity where issuer = $1 and subject = $2",
        issuer,
        subject
    );
    Ok(id.fetch_optional(tx.conn()).await?)
}

/// Links an identity of a provider to an account, and stores the event.
pub(crate) async fn link(
    tx: &mut Tx,
    linked: Changed<User>,
    issuer: &str,
    subject: &str,
) -> Result<User> {
    let now = tx.now;
    query!(
        "insert into external_identity (issuer, subject, user_id, linked_at) values ($1, $2, $3, $4)",
        issuer,
        subject,
        linked.state().id as _,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(linked))
}
