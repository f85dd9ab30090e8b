//! Every SQL statement about sessions, and sign-ins on their way.

use std::sync::{Arc, atomic::AtomicBool};

use chassis::{Account, Changed, Db, Result, Tx, UserId, page::Page, retention::BATCH};
use sqlx::{query, query_as, query_scalar};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{IDLE_MAX, Session};

/// What a credential proves, and how it is checked.
#[derive(Clone)]
pub(crate) struct Proof {
    pub(crate) account: Account,
    pub(crate) secret_hash: Vec<u8>,
    /// `None`: it does not end by itself.
    pub(crate) expires_at: Option<OffsetDateTime>,
    /// `None`: it was never used.
    pub(crate) last_used_at: Option<OffsetDateTime>,
    /// Whether a use was recorded since this was read.
    pub(crate) use_recorded: Arc<AtomicBool>,
}

/// Stores a new session and its event.
pub(crate) async fn insert(
    tx: &mut Tx,
    opened: Changed<Session>,
    secret_hash: &[u8],
) -> Result<Session> {
    let it = opened.state();
    query!(
        "insert into session (id, user_id, secret_hash, created_at, expires_at, proved_at, last_used_at,
             address, user_agent)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        it.id,
        it.user_id as _,
        secret_hash,
        it.created_at,
        it.expires_at,
        it.proved_at,
        it.last_used_at,
        it.address,
        it.user_agent,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(opened))
}

/// Loads a session of an account that has not ended, and keeps others from ending it.
pub(crate) async fn lock(tx: &mut Tx, user_id: UserId, id: Uuid) -> Result<Option<Session>> {
    let session = query_as!(
        Session,
        "select id, user_id, created_at, expires_at, last_used_at, proved_at, address, user_agent
         from session where user_id = $1 and id = $2 and revoked_at is null for update",
        user_id.0,
        id
    );
    Ok(session.fetch_optional(tx.conn()).await?)
}

/// Whether a session has not ended.
pub(crate) async fn is_open(tx: &mut Tx, id: Uuid) -> Result<bool> {
    let open = query_scalar!(
        r#"select exists (select from session where id = $1 and revoked_at is null) as "open!""#,
        id
    );
    Ok(open.fetch_one(tx.conn()).await?)
}

/// Ends a session.
pub(crate) async fn end(tx: &mut Tx, ended: Changed<Session>) -> Result<Session> {
    let (id, now) = (ended.state().id, tx.now);
    query!("update session set revoked_at = $2 where id = $1", id, now).execute(tx.conn()).await?;
    Ok(tx.emit(ended))
}

/// Notes that a person has shown again who they are.
pub(crate) async fn renew(tx: &mut Tx, renewed: Changed<Session>) -> Result<Session> {
    let it = renewed.state();
    query!("update session set proved_at = $2 where id = $1", it.id, it.proved_at)
        .execute(tx.conn())
        .await?;
    Ok(tx.emit(renewed))
}

/// Ends every session of an account but one, which the event of the cause tells.
pub(crate) async fn end_all(tx: &mut Tx, user_id: UserId, but: Option<Uuid>) -> Result<u64> {
    let now = tx.now;
    let ended = query!(
        "update session set revoked_at = $3
         where user_id = $1 and revoked_at is null and id is distinct from $2",
        user_id.0,
        but,
        now
    );
    Ok(ended.execute(tx.conn()).await?.rows_affected())
}

/// A page of the sessions of an account that have not ended, newest first.
pub(crate) async fn list(db: &Db, user_id: UserId, page: &Page) -> Result<Vec<Session>> {
    let now = db.now();
    let sessions = query_as!(
        Session,
        "select id, user_id, created_at, expires_at, last_used_at, proved_at, address, user_agent
         from session
         where user_id = $1 and revoked_at is null and expires_at > $2 and last_used_at > $3
               and ($4::uuid is null or id < $4)
         order by id desc limit $5",
        user_id.0,
        now,
        now - IDLE_MAX,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(sessions.fetch_all(db.pool()).await?)
}

/// What a session that has not ended proves. One indexed read, which every call makes.
pub(crate) async fn proof(db: &Db, id: Uuid) -> Result<Option<Proof>> {
    let row = query!(
        r#"select account.id, account.email as "email: String", account.display_name,
                  account.email_verified_at is not null as "email_verified!",
                  session.secret_hash, session.expires_at, session.proved_at, session.last_used_at
           from session join account on account.id = session.user_id
           where session.id = $1 and session.revoked_at is null"#,
        id
    )
    .fetch_optional(db.pool())
    .await?;
    Ok(row.map(|it| {
        let account = Account {
            user_id: it.id,
            email: it.email,
            display_name: it.display_name,
            email_verified: it.email_verified,
            credential_id: id,
            key: None,
            authenticated_at: Some(it.proved_at),
        };
        let ends = it.expires_at.min(it.last_used_at + IDLE_MAX);
        Proof {
            account,
            secret_hash: it.secret_hash,
            expires_at: Some(ends),
            last_used_at: Some(it.last_used_at),
            use_recorded: Arc::default(),
        }
    }))
}

/// Notes that a session was used, at most once a minute.
pub(crate) async fn used(db: &Db, id: Uuid, now: OffsetDateTime) -> Result<()> {
    query!(
        "update session set last_used_at = $2 where id = $1 and last_used_at < $3",
        id,
        now,
        now - Duration::minutes(1)
    )
    .execute(db.pool())
    .await?;
    Ok(())
}

/// Whether an account signed in from an address within the last month.
pub(crate) async fn knows(db: &Db, user_id: UserId, address: &str) -> Result<bool> {
    let known = query_scalar!(
        r#"select exists (
               select from session where user_id = $1 and address = $2 and created_at > $3
           ) as "known!""#,
        user_id.0,
        address,
        db.now() - Duration::days(30)
    );
    Ok(known.fetch_one(db.pool()).await?)
}

/// A sign-in that waits for its second factor.
pub(crate) struct Challenge {
    pub(crate) id: Uuid,
    pub(crate) user_id: UserId,
    pub(crate) secret_hash: Vec<u8>,
    pub(crate) method: String,
    /// Of the account at that time.
    pub(crate) password_version: i64,
    pub(crate) expires_at: OffsetDateTime,
}

/// Stores a challenge.
pub(crate) async fn insert_challenge(tx: &mut Tx, it: &Challenge) -> Result<()> {
    query!(
        "insert into login_challenge (id, user_id, secret_hash, method, password_version, expires_at)
         values ($1, $2, $3, $4, $5, $6)",
        it.id,
        it.user_id as _,
        it.secret_hash,
        it.method,
        it.password_version,
        it.expires_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A challenge that is open.
pub(crate) async fn challenge(db: &Db, id: Uuid) -> Result<Option<Challenge>> {
    let challenge = query_as!(
        Challenge,
        "select id, user_id, secret_hash, method, password_version, expires_at
         from login_challenge where id = $1 and used_at is null and expires_at > $2",
        id,
        db.now()
    );
    Ok(challenge.fetch_optional(db.pool()).await?)
}

/// Counts an attempt at a challenge before its code is looked at; `false` if there were `max` already.
pub(crate) async fn count_attempt(tx: &mut Tx, id: Uuid, max: i32) -> Result<bool> {
    let counted = query!(
        "update login_challenge set attempts = attempts + 1 where id = $1 and attempts < $2",
        id,
        max
    );
    Ok(counted.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Marks a challenge as used; `false` if it was used already.
pub(crate) async fn use_challenge(tx: &mut Tx, id: Uuid) -> Result<bool> {
    let now = tx.now;
    let used = query!(
        "update login_challenge set used_at = $2 where id = $1 and used_at is null",
        id,
        now
    );
    Ok(used.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Deletes sessions that have expired.
pub(crate) async fn delete_expired(tx: &mut Tx) -> Result<u64> {
    let now = tx.now;
    let gone = query!(
        "delete from session where id in (
             select id from session where expires_at < $1 order by expires_at limit $2)",
        now,
        BATCH
    );
    Ok(gone.execute(tx.conn()).await?.rows_affected())
}

/// Deletes challenges that have expired.
pub(crate) async fn delete_expired_challenges(tx: &mut Tx) -> Result<u64> {
    let now = tx.now;
    let gone = query!(
        "delete from login_challenge where id in (
             select id from login_challenge where expires_at < $1 order by expires_at limit $2)",
        now,
        BATCH
    );
    Ok(gone.execute(tx.conn()).await?.rows_affected())
}

/// Deletes every session and challenge of an account that goes, with its network addresses.
pub(crate) async fn erase(tx: &mut Tx, user_id: UserId) -> Result<()> {
    query!("delete from session where user_id = $1", user_id.0).execute(tx.conn()).await?;
    query!("delete from login_challenge where user_id = $1", user_id.0).execute(tx.conn()).await?;
    Ok(())
}
