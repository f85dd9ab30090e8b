//! SQL of sessions, and of sign-ins that wait for a second factor.

use std::{sync::Arc, time::Instant};

use chassis::{Account, Changed, Db, Result, Tx, UserId, page::Page};
use identity_rules::session::{IDLE_TIMEOUT, Session};
use sqlx::{query, query_as, query_scalar};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use worker::retention::BATCH;

use crate::credential::StoredCredential;

/// Stores a new session and its event.
pub(crate) async fn insert(
    tx: &mut Tx,
    started: Changed<Session>,
    secret_hash: &[u8],
) -> Result<Session> {
    let session = started.state();
    query!(
        "insert into session (id, user_id, secret_hash, created_at, expires_at, proved_at, last_used_at,
             address, user_agent)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        session.id,
        session.user_id as _,
        secret_hash,
        session.created_at,
        session.expires_at,
        session.proved_at,
        session.last_used_at,
        session.address,
        session.user_agent,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(started))
}

/// Locks a session of an account that has not ended, and returns it.
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

/// Returns true if a session has not been ended.
pub(crate) async fn is_active(tx: &mut Tx, id: Uuid) -> Result<bool> {
    let active = query_scalar!(
        r#"select exists (select from session where id = $1 and revoked_at is null) as "active!""#,
        id
    );
    Ok(active.fetch_one(tx.conn()).await?)
}

/// Stores an ended session and its event.
pub(crate) async fn end(tx: &mut Tx, ended: Changed<Session>) -> Result<Session> {
    let id = ended.state().id;
    let now = tx.now;
    query!("update session set revoked_at = $2 where id = $1", id, now).execute(tx.conn()).await?;
    Ok(tx.emit(ended))
}

/// Stores the time of a repeated authentication and its event.
pub(crate) async fn update_proved_at(
    tx: &mut Tx,
    reauthenticated: Changed<Session>,
) -> Result<Session> {
    let session = reauthenticated.state();
    query!("update session set proved_at = $2 where id = $1", session.id, session.proved_at)
        .execute(tx.conn())
        .await?;
    Ok(tx.emit(reauthenticated))
}

/// Ends every session of an account except `kept`, without emitting an event: the event of the cause
/// implies it. Returns their number.
pub(crate) async fn end_all(tx: &mut Tx, user_id: UserId, kept: Option<Uuid>) -> Result<u64> {
    let now = tx.now;
    let ended = query!(
        "update session set revoked_at = $3
         where user_id = $1 and revoked_at is null and id is distinct from $2",
        user_id.0,
        kept,
        now
    );
    Ok(ended.execute(tx.conn()).await?.rows_affected())
}

/// Returns a page of the sessions of an account that have not ended, newest first.
pub(crate) async fn list(db: &Db, user_id: UserId, page: &Page) -> Result<Vec<Session>> {
    let now = db.now();
    let sessions = query_as!(
        Session,
        "select id, user_id, created_at, expires_at, last_used_at, proved_at, address, user_agent
         from session
         where user_id = $1 and revoked_at is null and expires_at > $2 and last_used_at > $3
               and id < coalesce($4, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
         order by id desc limit $5",
        user_id.0,
        now,
        now - IDLE_TIMEOUT,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(sessions.fetch_all(db.pool()).await?)
}

/// Returns the newest sessions of an account that have not ended, newest first.
pub(crate) async fn list_newest(db: &Db, user_id: UserId, limit: i64) -> Result<Vec<Session>> {
    let now = db.now();
    let sessions = query_as!(
        Session,
        "select id, user_id, created_at, expires_at, last_used_at, proved_at, address, user_agent
         from session
         where user_id = $1 and revoked_at is null and expires_at > $2 and last_used_at > $3
         order by id desc limit $4",
        user_id.0,
        now,
        now - IDLE_TIMEOUT,
        limit,
    );
    Ok(sessions.fetch_all(db.pool()).await?)
}

/// Returns a session that has not been ended, as a credential. Every call that changes data, or that is
/// about the account only, makes this read, by primary key.
pub(crate) async fn credential(db: &Db, id: Uuid) -> Result<Option<StoredCredential>> {
    let verified_at = Instant::now();
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
    Ok(row.map(|row| {
        let account = Account {
            user_id: row.id,
            email: row.email,
            display_name: row.display_name,
            email_verified: row.email_verified,
            credential_id: id,
            key: None,
            authenticated_at: Some(row.proved_at),
        };
        StoredCredential {
            account,
            secret_hash: row.secret_hash,
            verified_at,
            expires_at: Some(row.expires_at.min(row.last_used_at + IDLE_TIMEOUT)),
            last_used_at: Some(row.last_used_at),
            use_recorded: Arc::default(),
        }
    }))
}

/// Records the time of a use, at most once a minute.
pub(crate) async fn record_use(db: &Db, id: Uuid, now: OffsetDateTime) -> Result<()> {
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

/// Returns true if an account signed in from a network address within the last 30 days.
pub(crate) async fn signed_in_recently_from(
    db: &Db,
    user_id: UserId,
    address: &str,
) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (
               select from session where user_id = $1 and address = $2 and created_at > $3
           ) as "known!""#,
        user_id.0,
        address,
        db.now() - Duration::days(30)
    );
    Ok(found.fetch_one(db.pool()).await?)
}

/// A sign-in that waits for a code of the second factor.
pub(crate) struct Challenge {
    pub(crate) id: Uuid,
    pub(crate) user_id: UserId,
    pub(crate) secret_hash: Vec<u8>,
    pub(crate) method: String,
    /// The version of the account's password at the time of the sign-in.
    pub(crate) password_version: i64,
    pub(crate) expires_at: OffsetDateTime,
}

/// Stores a challenge.
pub(crate) async fn insert_challenge(tx: &mut Tx, challenge: &Challenge) -> Result<()> {
    query!(
        "insert into login_challenge (id, user_id, secret_hash, method, password_version, expires_at)
         values ($1, $2, $3, $4, $5, $6)",
        challenge.id,
        challenge.user_id as _,
        challenge.secret_hash,
        challenge.method,
        challenge.password_version,
        challenge.expires_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns a challenge that is neither used nor expired.
pub(crate) async fn find_challenge(db: &Db, id: Uuid) -> Result<Option<Challenge>> {
    let challenge = query_as!(
        Challenge,
        "select id, user_id, secret_hash, method, password_version, expires_at
         from login_challenge where id = $1 and used_at is null and expires_at > $2",
        id,
        db.now()
    );
    Ok(challenge.fetch_optional(db.pool()).await?)
}

/// Counts an attempt at a challenge; returns false if there have been `max` attempts already.
pub(crate) async fn count_attempt(tx: &mut Tx, id: Uuid, max: i32) -> Result<bool> {
    let counted = query!(
        "update login_challenge set attempts = attempts + 1 where id = $1 and attempts < $2",
        id,
        max
    );
    Ok(counted.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Marks a challenge as used; returns false if it was used already.
pub(crate) async fn consume_challenge(tx: &mut Tx, id: Uuid) -> Result<bool> {
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
    let deleted = query!(
        "delete from session where id in (
             select id from session where expires_at < $1 order by expires_at limit $2)",
        now,
        BATCH
    );
    Ok(deleted.execute(tx.conn()).await?.rows_affected())
}

/// Deletes challenges that have expired.
pub(crate) async fn delete_expired_challenges(tx: &mut Tx) -> Result<u64> {
    let now = tx.now;
    let deleted = query!(
        "delete from login_challenge where id in (
             select id from login_challenge where expires_at < $1 order by expires_at limit $2)",
        now,
        BATCH
    );
    Ok(deleted.execute(tx.conn()).await?.rows_affected())
}

/// Deletes every session and challenge of a deleted account, with the network addresses in them.
pub(crate) async fn delete_all(tx: &mut Tx, user_id: UserId) -> Result<()> {
    query!("delete from session where user_id = $1", user_id.0).execute(tx.conn()).await?;
    query!("delete from login_challenge where user_id = $1", user_id.0).execute(tx.conn()).await?;
    Ok(())
}
