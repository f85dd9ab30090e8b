//! Every SQL statement about sessions.

use chassis::{Account, Changed, Db, Result, Tx, UserId};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Session;

/// What signing in needs to know of an account.
pub(crate) struct Login {
    pub(crate) user_id: UserId,
    pub(crate) email: String,
    pub(crate) display_name: String,
    pub(crate) email_verified: bool,
    pub(crate) password_hash: String,
}

/// What a session proves, and how it is checked.
#[derive(Clone)]
pub(crate) struct Proof {
    pub(crate) account: Account,
    pub(crate) secret_hash: Vec<u8>,
    /// `None`: it does not end by itself.
    pub(crate) expires_at: Option<OffsetDateTime>,
}

/// The account with an address.
pub(crate) async fn login(db: &Db, canonical_email: &str) -> Result<Option<Login>> {
    let login = query_as!(
        Login,
        r#"select id as user_id, email as "email: String", display_name,
                  email_verified_at is not null as "email_verified!", password_hash
           from account where canonical_email = $1"#,
        canonical_email
    );
    Ok(login.fetch_optional(db.pool()).await?)
}

/// Stores a new session and its event.
pub(crate) async fn insert(
    tx: &mut Tx,
    opened: Changed<Session>,
    secret_hash: &[u8],
) -> Result<Session> {
    let it = opened.state();
    query!(
        "insert into session (id, user_id, secret_hash, created_at, expires_at, proved_at)
         values ($1, $2, $3, $4, $5, $4)",
        it.id,
        it.user_id as _,
        secret_hash,
        it.created_at,
        it.expires_at,
    )
    .execute(tx.conn())
    .await?;
    tx.emit(opened).await
}

/// Loads a session that has not ended, and keeps others from ending it.
pub(crate) async fn lock(tx: &mut Tx, id: Uuid) -> Result<Option<Session>> {
    let session = query_as!(
        Session,
        "select id, user_id, created_at, expires_at
         from session where id = $1 and revoked_at is null for update",
        id
    );
    Ok(session.fetch_optional(tx.conn()).await?)
}

/// Ends a session.
pub(crate) async fn end(tx: &mut Tx, ended: Changed<Session>) -> Result<Session> {
    let (id, now) = (ended.state().id, tx.now);
    query!("update session set revoked_at = $2 where id = $1", id, now).execute(tx.conn()).await?;
    tx.emit(ended).await
}

/// What a session that has not ended proves. One indexed read: every call makes it.
pub(crate) async fn proof(db: &Db, id: Uuid) -> Result<Option<Proof>> {
    let row = query!(
        r#"select account.id, account.email as "email: String", account.display_name,
                  account.email_verified_at is not null as "email_verified!",
                  session.secret_hash, session.expires_at, session.proved_at
           from session join account on account.id = session.user_id
           where session.id = $1 and session.revoked_at is null"#,
        id
    )
    .fetch_optional(db.pool())
    .await?;
    Ok(row.map(|it| Proof {
        account: Account {
            user_id: it.id,
            email: it.email,
            display_name: it.display_name,
            email_verified: it.email_verified,
            credential_id: id,
            key: None,
            authenticated_at: Some(it.proved_at),
        },
        secret_hash: it.secret_hash,
        expires_at: Some(it.expires_at),
    }))
}
