//! SQL of accounts.

pub(crate) mod claims;

use chassis::{
    Account, Changed, Db, Error, OnConstraint, OrgId, Result, Tx, UserId,
    email::{Address, Email},
    fold,
};
use identity_rules::{
    password::InvalidLogin,
    user::{Refused, User, VerifiedPassword, claim::CLAIMS_PER_ADDRESS_MAX},
};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;

use crate::session;

/// Stores a new account and its event; `None` if its address is confirmed, and another account has confirmed
/// it already.
pub(crate) async fn insert(
    tx: &mut Tx,
    created: Changed<User>,
    password_hash: Option<&str>,
) -> Result<Option<User>> {
    let user = created.state();
    let inserted = query!(
        "insert into account (id, email, canonical_email, display_name, password_hash, email_verified_at,
             created_at, search_key)
         values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict on constraint account_email do nothing",
        user.id as _,
        user.email as _,
        user.canonical_email,
        user.display_name,
        password_hash,
        user.email_verified_at,
        user.created_at,
        search_key(user),
    )
    .execute(tx.conn())
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(None);
    }
    Ok(Some(tx.emit(created)))
}

/// Returns the key by which a person is found.
fn search_key(user: &User) -> String {
    fold::key(&format!("{} {}", user.display_name, user.email.0))
}

/// Locks an account that is not deleted, and returns it.
pub(crate) async fn lock(tx: &mut Tx, id: UserId) -> Result<Option<User>> {
    let user = query_as!(
        User,
        r#"select id, email, canonical_email, display_name, email_verified_at, password_version,
                  totp_enabled_at, deleted_at, created_at,
                  array(select distinct issuer from external_identity where user_id = account.id
                        order by issuer limit 10) as "issuers!"
           from account where id = $1 and deleted_at is null for update"#,
        id.0
    );
    Ok(user.fetch_optional(tx.conn()).await?)
}

/// Locks the account that makes a call, and returns it. Refuses a session that has been ended since the
/// call was authenticated: ending all sessions takes the same lock.
pub(crate) async fn lock_caller(tx: &mut Tx, account: &Account) -> Result<User> {
    let user = lock(tx, account.user_id).await?.ok_or_else(Error::invalid_credential)?;
    if account.key.is_none() && !session::store::is_active(tx, account.credential_id).await? {
        return Err(Error::invalid_credential());
    }
    Ok(user)
}

/// Locks an account whose password was verified, and returns it. Refuses if it has got another password
/// since.
pub(crate) async fn lock_verified(tx: &mut Tx, verified: &VerifiedPassword) -> Result<User> {
    let user = lock(tx, verified.user_id).await?.ok_or(InvalidLogin)?;
    user.require_current(verified)?;
    Ok(user)
}

/// Locks the account that has confirmed an address, and returns it.
pub(crate) async fn lock_by_email(tx: &mut Tx, canonical_email: &str) -> Result<Option<User>> {
    let id = query_scalar!(
        "select id from account where canonical_email = $1 and email_verified_at is not null",
        canonical_email
    );
    match id.fetch_optional(tx.conn()).await? {
        Some(id) => lock(tx, id).await,
        None => Ok(None),
    }
}

/// Stores a changed account and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<User>) -> Result<User> {
    let user = changed.state();
    query!(
        "update account set email = $2, canonical_email = $3, display_name = $4, email_verified_at = $5,
                password_version = $6, totp_enabled_at = $7, deleted_at = $8, search_key = $9
         where id = $1",
        user.id as _,
        user.email as _,
        user.canonical_email,
        user.display_name,
        user.email_verified_at,
        user.password_version,
        user.totp_enabled_at,
        user.deleted_at,
        search_key(user),
    )
    .execute(tx.conn())
    .await
    .on_constraint("account_email", Refused::EmailTaken)?;
    Ok(tx.emit(changed))
}

/// Stores the hash of a password; `None` for an account without a password.
pub(crate) async fn set_password_hash(tx: &mut Tx, id: UserId, hash: Option<&str>) -> Result<()> {
    query!("update account set password_hash = $2 where id = $1", id.0, hash)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Replaces the hash of a password by another hash of the same password. Does nothing if the password has
/// been changed since.
pub(crate) async fn replace_hash(tx: &mut Tx, id: UserId, old: &str, new: &str) -> Result<()> {
    query!(
        "update account set password_hash = $3 where id = $1 and password_hash = $2",
        id.0,
        old,
        new
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The stored password of an account.
#[derive(Default)]
pub(crate) struct StoredPassword {
    /// `None` if the account has no password.
    pub(crate) hash: Option<String>,
    pub(crate) version: i64,
}

/// Returns the stored password of an account.
pub(crate) async fn find_password(db: &Db, id: UserId) -> Result<Option<StoredPassword>> {
    let row = query!("select password_hash, password_version from account where id = $1", id.0);
    let row = row.fetch_optional(db.pool()).await?;
    Ok(row.map(|row| StoredPassword { hash: row.password_hash, version: row.password_version }))
}

/// Returns an account that is not deleted.
pub(crate) async fn get(db: &Db, id: UserId) -> Result<Option<User>> {
    let user = query_as!(
        User,
        r#"select id, email, canonical_email, display_name, email_verified_at, password_version,
                  totp_enabled_at, deleted_at, created_at,
                  array(select distinct issuer from external_identity where user_id = account.id
                        order by issuer limit 10) as "issuers!"
           from account where id = $1 and deleted_at is null"#,
        id.0
    );
    Ok(user.fetch_optional(db.pool()).await?)
}

/// The data of an account that a sign-in needs.
pub(crate) struct Login {
    pub(crate) user_id: UserId,
    pub(crate) password_hash: Option<String>,
    pub(crate) password_version: i64,
}

/// Returns the account that has confirmed an address, for a sign-in; or else the claims to the address,
/// newest first.
pub(crate) async fn find_logins(db: &Db, canonical_email: &str) -> Result<Vec<Login>> {
    let logins = query_as!(
        Login,
        "select id as user_id, password_hash, password_version from account
         where canonical_email = $1 and deleted_at is null
           and (email_verified_at is not null or not exists (
                select from account as owner
                where owner.canonical_email = $1 and owner.email_verified_at is not null))
         order by created_at desc, id desc limit $2",
        canonical_email,
        CLAIMS_PER_ADDRESS_MAX
    );
    Ok(logins.fetch_all(db.pool()).await?)
}

/// Returns the id of an account, unless it is deleted or does not exist.
pub(crate) async fn find_active(db: &Db, id: UserId) -> Result<Option<UserId>> {
    let found = query_scalar!("select id from account where id = $1 and deleted_at is null", id.0);
    Ok(found.fetch_optional(db.pool()).await?)
}

/// An organization of which an account is a member.
pub(crate) struct MemberOf {
    pub(crate) org_id: OrgId,
    pub(crate) is_owner: bool,
    /// `None` if the organization is not deleted.
    pub(crate) deleted_at: Option<OffsetDateTime>,
}

/// Returns the organizations of an account, ordered by id: the order in which they are locked.
pub(crate) async fn organizations(tx: &mut Tx, id: UserId) -> Result<Vec<MemberOf>> {
    // Over all organizations (no org_id): a deleted account leaves every one of them.
    let rows = query!(
        r#"select org_id, role = 'owner' as "owner!", deleted_at
           from member join organization on organization.id = org_id
           where user_id = $1 order by org_id"#,
        id.0
    );
    let rows = rows.fetch_all(tx.conn()).await?.into_iter();
    let member_of = rows.map(|row| MemberOf {
        org_id: row.org_id,
        is_owner: row.owner,
        deleted_at: row.deleted_at,
    });
    Ok(member_of.collect())
}

/// Deletes the links of an account to identity providers.
pub(crate) async fn unlink_identities(tx: &mut Tx, id: UserId) -> Result<()> {
    query!("delete from external_identity where user_id = $1", id.0).execute(tx.conn()).await?;
    Ok(())
}

/// Stores an address that an account had before, so that it can be erased with the account.
pub(crate) async fn insert_former_address(tx: &mut Tx, id: UserId, old: &Address) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into former_address (user_id, email, canonical_email, left_at) values ($1, $2, $3, $4)
         on conflict (user_id, canonical_email) do update set left_at = excluded.left_at",
        id.0,
        &old.typed as _,
        old.canonical,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Deletes the former addresses of an account, and returns those that no other account has by now.
pub(crate) async fn take_former_addresses(tx: &mut Tx, id: UserId) -> Result<Vec<Address>> {
    let rows = query!(
        r#"delete from former_address where user_id = $1
           returning email as "email: Email", canonical_email,
               exists (select from account where account.canonical_email = former_address.canonical_email
                       and account.email_verified_at is not null and account.id <> $1) as "taken!""#,
        id.0
    );
    let rows = rows.fetch_all(tx.conn()).await?.into_iter().filter(|row| !row.taken);
    Ok(rows.map(|row| Address { typed: row.email, canonical: row.canonical_email }).collect())
}
