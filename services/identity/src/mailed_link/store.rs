//! Every SQL statement about mailed links.

use chassis::{Db, Result, Tx, UserId};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{MailedLink, Purpose};

/// Stores a link, and asks for its mail.
pub(crate) async fn send(tx: &mut Tx, it: &MailedLink) -> Result<()> {
    query!(
        "insert into mailed_link (id, user_id, purpose, email, canonical_email, secret_hash,
             password_version, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        it.id,
        it.user_id as _,
        it.purpose as _,
        it.email as _,
        it.canonical_email,
        it.secret_hash,
        it.password_version,
        it.created_at,
        it.expires_at,
    )
    .execute(tx.conn())
    .await?;
    tx.mail(it.purpose.template(), it.id).await
}

/// Loads a link and keeps others from using it.
pub(crate) async fn lock(tx: &mut Tx, id: Uuid) -> Result<Option<MailedLink>> {
    let link = query_as!(
        MailedLink,
        "select id, user_id, purpose, email, canonical_email, secret_hash, password_version, created_at,
                expires_at, used_at
         from mailed_link where id = $1 for update",
        id
    );
    Ok(link.fetch_optional(tx.conn()).await?)
}

/// Marks a link as used.
pub(crate) async fn used(tx: &mut Tx, id: Uuid) -> Result<()> {
    let now = tx.now;
    query!("update mailed_link set used_at = $2 where id = $1", id, now).execute(tx.conn()).await?;
    Ok(())
}

/// Ends every link of an account.
pub(crate) async fn end_all(tx: &mut Tx, user_id: UserId) -> Result<()> {
    let now = tx.now;
    query!(
        "update mailed_link set used_at = $2 where user_id = $1 and used_at is null
         and purpose in ('verify', 'reset', 'change')",
        user_id.0,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// When the newest link of a kind was made.
pub(crate) async fn last(
    tx: &mut Tx,
    user_id: UserId,
    purpose: Purpose,
) -> Result<Option<OffsetDateTime>> {
    let last = query_scalar!(
        "select max(created_at) from mailed_link where user_id = $1 and purpose = $2",
        user_id.0,
        purpose as _
    );
    Ok(last.fetch_one(tx.conn()).await?)
}

/// A link and the name of its account, unless it is not wanted any more.
pub(crate) async fn wanted(db: &Db, id: Uuid) -> Result<Option<(MailedLink, String)>> {
    let row = query!(
        r#"select mailed_link.id, user_id, purpose, mailed_link.email, mailed_link.canonical_email,
                  secret_hash, mailed_link.password_version, mailed_link.created_at, expires_at, used_at,
                  display_name
           from mailed_link join account on account.id = user_id
           where mailed_link.id = $1 and used_at is null"#,
        id
    )
    .fetch_optional(db.pool())
    .await?;
    Ok(row.map(|it| {
        let link = MailedLink {
            id: it.id,
            user_id: it.user_id,
            purpose: it.purpose,
            email: it.email,
            canonical_email: it.canonical_email,
            secret_hash: it.secret_hash,
            password_version: it.password_version,
            created_at: it.created_at,
            expires_at: it.expires_at,
            used_at: it.used_at,
        };
        (link, it.display_name)
    }))
}
