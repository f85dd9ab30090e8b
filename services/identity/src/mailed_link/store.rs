//! SQL of mailed links.

use chassis::{Db, Result, Tx, UserId, token::Token};
use identity_rules::{
    mailed_link::{MailedLink, Purpose, RETENTION, Refused},
    user::User,
};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;
use worker::retention::BATCH;

use crate::{column::Stored, user};

/// Stores a link and queues its mail.
pub(crate) async fn send(tx: &mut Tx, link: &MailedLink) -> Result<()> {
    query!(
        "insert into mailed_link (id, user_id, purpose, email, canonical_email, secret_hash,
             password_version, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        link.id,
        link.user_id as _,
        Stored(link.purpose) as _,
        link.email as _,
        link.canonical_email,
        link.secret_hash,
        link.password_version,
        link.created_at,
        link.expires_at,
    )
    .execute(tx.conn())
    .await?;
    ::mail::enqueue(tx, link.purpose.template(), link.id).await
}

/// Returns the canonical address to which a link was mailed. Does not lock it: the lock of the address is
/// taken first.
pub(crate) async fn find_address(tx: &mut Tx, id: Uuid) -> Result<Option<String>> {
    let address = query_scalar!("select canonical_email from mailed_link where id = $1", id);
    Ok(address.fetch_optional(tx.conn()).await?)
}

/// Locks a link and returns it.
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
pub(crate) async fn mark_used(tx: &mut Tx, id: Uuid) -> Result<()> {
    let now = tx.now;
    query!("update mailed_link set used_at = $2 where id = $1", id, now).execute(tx.conn()).await?;
    Ok(())
}

/// Marks every unused link of an account as used; notices are kept, so that their mails are still sent.
pub(crate) async fn invalidate_all(tx: &mut Tx, user_id: UserId) -> Result<()> {
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

/// Marks every unused link of an account for one purpose as used. Returns their number.
pub(crate) async fn invalidate(tx: &mut Tx, user_id: UserId, purpose: Purpose) -> Result<u64> {
    let now = tx.now;
    let ended = query!(
        "update mailed_link set used_at = $3
         where user_id = $1 and purpose = $2 and used_at is null and expires_at > $3",
        user_id.0,
        Stored(purpose) as _,
        now
    );
    Ok(ended.execute(tx.conn()).await?.rows_affected())
}

/// Returns the number of links that were mailed to an address in the last 24 hours.
pub(crate) async fn count_sent_to(tx: &mut Tx, canonical_email: &str) -> Result<i64> {
    let since = tx.now - time::Duration::days(1);
    let count = query_scalar!(
        r#"select count(*) as "count!" from mailed_link where canonical_email = $1 and created_at > $2"#,
        canonical_email,
        since
    );
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Returns the time at which the newest link or notice of one purpose was created.
pub(crate) async fn last_sent_at(
    tx: &mut Tx,
    user_id: UserId,
    purpose: Purpose,
) -> Result<Option<OffsetDateTime>> {
    let last = query_scalar!(
        "select max(created_at) from mailed_link where user_id = $1 and purpose = $2",
        user_id.0,
        Stored(purpose) as _
    );
    Ok(last.fetch_one(tx.conn()).await?)
}

/// Returns the account of a token's link. Refuses a token whose link is unknown, used, expired or for another
/// purpose.
pub(crate) async fn require_valid(db: &Db, purpose: Purpose, token: &Token) -> Result<User> {
    let link = find_unused(db, token.id).await?.ok_or(Refused::Invalid)?.link;
    let user = user::store::get(db, link.user_id).await?.ok_or(Refused::Invalid)?;
    link.require_valid(purpose, token, &user, db.now())?;
    Ok(user)
}

/// An unused link, with the data of its mail.
pub(crate) struct UnusedLink {
    pub(crate) link: MailedLink,
    /// The name of the link's account.
    pub(crate) display_name: String,
    /// True if another account has confirmed the address to which the link is mailed.
    pub(crate) is_address_taken: bool,
}

/// Returns a link; `None` if it was used.
pub(crate) async fn find_unused(db: &Db, id: Uuid) -> Result<Option<UnusedLink>> {
    let row = query!(
        r#"select mailed_link.id, user_id, purpose, mailed_link.email, mailed_link.canonical_email,
                  secret_hash, mailed_link.password_version, mailed_link.created_at, expires_at, used_at,
                  display_name,
                  exists (select from account as other
                          where other.canonical_email = mailed_link.canonical_email
                            and other.email_verified_at is not null
                            and other.id <> user_id) as "is_taken!"
           from mailed_link join account on account.id = user_id
           where mailed_link.id = $1 and used_at is null"#,
        id
    )
    .fetch_optional(db.pool())
    .await?;
    Ok(row.map(|row| UnusedLink {
        link: MailedLink {
            id: row.id,
            user_id: row.user_id,
            purpose: row.purpose.0,
            email: row.email,
            canonical_email: row.canonical_email,
            secret_hash: row.secret_hash,
            password_version: row.password_version,
            created_at: row.created_at,
            expires_at: row.expires_at,
            used_at: row.used_at,
        },
        display_name: row.display_name,
        is_address_taken: row.is_taken,
    }))
}

/// Deletes links and notices that expired longer ago than [`RETENTION`].
pub(crate) async fn delete_expired(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - RETENTION;
    let deleted = query!(
        "delete from mailed_link where id in (
             select id from mailed_link where expires_at < $1 order by expires_at limit $2)",
        before,
        BATCH
    );
    Ok(deleted.execute(tx.conn()).await?.rows_affected())
}

/// Deletes every link of a deleted account or to one of its addresses, and their mails with the responses
/// of mail servers.
pub(crate) async fn delete_all(tx: &mut Tx, user_id: UserId, canonical: &[String]) -> Result<()> {
    // (no org_id): links and their mails belong to an account, not to an organization.
    query!(
        "with deleted as (
             delete from mailed_link where user_id = $1 or canonical_email = any($2) returning id
         )
         delete from mail where subject_id in (select id from deleted)",
        user_id.0,
        canonical
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
