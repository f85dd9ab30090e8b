//! Every SQL statement about mailed links.

use chassis::{Db, Result, Tx, UserId, retention::BATCH, token::Token};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{MailedLink, Purpose, Refused};
use crate::{retention::MAILED_LINKS_KEPT, user};

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

/// Refuses a token that opens no link at this moment.
pub(crate) async fn check(db: &Db, purpose: Purpose, token: &Token) -> Result<()> {
    let found = wanted(db, token.id).await?.ok_or(Refused::Invalid)?;
    let user = user::store::get(db, found.link.user_id).await?.ok_or(Refused::Invalid)?;
    Ok(found.link.open(purpose, token, &user, db.now())?)
}

/// A link that was not used, with what its mail says.
pub(crate) struct Wanted {
    pub(crate) link: MailedLink,
    /// The name of the account that it is for.
    pub(crate) display_name: String,
    /// Whether the address that it goes to is another account's.
    pub(crate) is_taken: bool,
}

/// A link, unless it was used.
pub(crate) async fn wanted(db: &Db, id: Uuid) -> Result<Option<Wanted>> {
    let row = query!(
        r#"select mailed_link.id, user_id, purpose, mailed_link.email, mailed_link.canonical_email,
                  secret_hash, mailed_link.password_version, mailed_link.created_at, expires_at, used_at,
                  display_name,
                  exists (select from account as other
                          where other.canonical_email = mailed_link.canonical_email
                            and other.id <> user_id) as "is_taken!"
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
        Wanted { link, display_name: it.display_name, is_taken: it.is_taken }
    }))
}

/// Deletes links and notices whose time is over for a while.
pub(crate) async fn delete_expired(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - MAILED_LINKS_KEPT;
    let gone = query!(
        "delete from mailed_link where id in (
             select id from mailed_link where expires_at < $1 order by expires_at limit $2)",
        before,
        BATCH
    );
    Ok(gone.execute(tx.conn()).await?.rows_affected())
}

/// Deletes every link of an account that goes, or to one of its addresses, and what mail servers said.
pub(crate) async fn erase(tx: &mut Tx, user_id: UserId, canonical: &[String]) -> Result<()> {
    query!(
        "with gone as (
             delete from mailed_link where user_id = $1 or canonical_email = any($2) returning id
         )
         delete from mail where subject_id in (select id from gone)",
        user_id.0,
        canonical
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
