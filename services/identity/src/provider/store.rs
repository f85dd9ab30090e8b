//! Every SQL statement about sign-ins with identity providers.

use chassis::{Changed, Result, Tx, UserId, retention::BATCH};
use sqlx::{query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::user::User;

/// Stores a sign-in on its way.
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

/// Takes a sign-in that is on its way, once, and in its time.
pub(crate) async fn take(tx: &mut Tx, id: Uuid) -> Result<Option<Vec<u8>>> {
    let now = tx.now;
    let sealed = query_scalar!(
        "update external_login set used_at = $2
         where id = $1 and used_at is null and expires_at > $2 returning sealed",
        id,
        now
    );
    Ok(sealed.fetch_optional(tx.conn()).await?)
}

/// Deletes sign-ins that were not completed in their time.
pub(crate) async fn delete_expired(tx: &mut Tx) -> Result<u64> {
    let now = tx.now;
    let gone = query!(
        "delete from external_login where id in (
             select id from external_login where expires_at < $1 order by expires_at limit $2)",
        now,
        BATCH
    );
    Ok(gone.execute(tx.conn()).await?.rows_affected())
}

/// The account that a person of a provider is linked with.
pub(crate) async fn linked(tx: &mut Tx, issuer: &str, subject: &str) -> Result<Option<UserId>> {
    let id = query_scalar!(
        "select user_id from external_identity where issuer = $1 and subject = $2",
        issuer,
        subject
    );
    Ok(id.fetch_optional(tx.conn()).await?)
}

/// Links an account with a person of a provider, and stores the event.
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
