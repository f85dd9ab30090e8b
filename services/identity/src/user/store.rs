//! Every SQL statement about accounts.

use chassis::{
    Account, Changed, Db, Error, OnConstraint, OrgId, Result, Tx, UserId,
    email::{Address, Email},
};
use sqlx::{query, query_as, query_scalar};

use super::{PasswordProof, Refused, User};
use crate::session::{self, InvalidLogin};

/// Stores a new account and its event, unless the address has one already.
pub(crate) async fn insert(
    tx: &mut Tx,
    created: Changed<User>,
    password_hash: Option<&str>,
) -> Result<Option<User>> {
    let it = created.state();
    let inserted = query!(
        "insert into account (id, email, canonical_email, display_name, password_hash, email_verified_at,
             created_at)
         values ($1, $2, $3, $4, $5, $6, $7) on conflict on constraint account_email do nothing",
        it.id as _,
        it.email as _,
        it.canonical_email,
        it.display_name,
        password_hash,
        it.email_verified_at,
        it.created_at,
    )
    .execute(tx.conn())
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(None);
    }
    Ok(Some(tx.emit(created)))
}

/// Loads a living account and keeps others from changing it.
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

/// The account that makes a call, locked. Refuses a session that has ended meanwhile: whatever ends
/// sessions holds the same lock.
pub(crate) async fn lock_caller(tx: &mut Tx, account: &Account) -> Result<User> {
    let user = lock(tx, account.user_id).await?.ok_or_else(Error::bad_credential)?;
    if account.key.is_none() && !session::store::is_open(tx, account.credential_id).await? {
        return Err(Error::bad_credential());
    }
    Ok(user)
}

/// The account whose password was proven, locked; refused if it has another password by now.
pub(crate) async fn lock_proven(tx: &mut Tx, proof: &PasswordProof) -> Result<User> {
    let user = lock(tx, proof.user_id).await?.ok_or(InvalidLogin)?;
    user.require_current(proof)?;
    Ok(user)
}

/// The living account with an address.
pub(crate) async fn lock_by_email(tx: &mut Tx, canonical_email: &str) -> Result<Option<User>> {
    let id = query_scalar!("select id from account where canonical_email = $1", canonical_email);
    match id.fetch_optional(tx.conn()).await? {
        Some(id) => lock(tx, id).await,
        None => Ok(None),
    }
}

/// Stores an account as it is now, and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<User>) -> Result<User> {
    let it = changed.state();
    query!(
        "update account set email = $2, canonical_email = $3, display_name = $4, email_verified_at = $5,
                password_version = $6, totp_enabled_at = $7, deleted_at = $8
         where id = $1",
        it.id as _,
        it.email as _,
        it.canonical_email,
        it.display_name,
        it.email_verified_at,
        it.password_version,
        it.totp_enabled_at,
        it.deleted_at,
    )
    .execute(tx.conn())
    .await
    .on_constraint("account_email", Refused::EmailTaken)?;
    Ok(tx.emit(changed))
}

/// Stores the hash of a password; none for an account that has none any more.
pub(crate) async fn set_password(tx: &mut Tx, id: UserId, hash: Option<&str>) -> Result<()> {
    query!("update account set password_hash = $2 where id = $1", id.0, hash)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Replaces the hash of a password by another hash of the same password, unless it was replaced meanwhile.
pub(crate) async fn rehash(tx: &mut Tx, id: UserId, old: &str, new: &str) -> Result<()> {
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

/// The hash of the password of an account, and the version of the password.
pub(crate) async fn password(db: &Db, id: UserId) -> Result<Option<(Option<String>, i64)>> {
    let row = query!("select password_hash, password_version from account where id = $1", id.0);
    let row = row.fetch_optional(db.pool()).await?;
    Ok(row.map(|it| (it.password_hash, it.password_version)))
}

/// One living account.
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

/// What a password at sign-in is compared with.
pub(crate) struct Login {
    pub(crate) user_id: UserId,
    pub(crate) password_hash: Option<String>,
    pub(crate) password_version: i64,
}

/// The account with an address.
pub(crate) async fn login(db: &Db, canonical_email: &str) -> Result<Option<Login>> {
    let login = query_as!(
        Login,
        "select id as user_id, password_hash, password_version
         from account where canonical_email = $1 and deleted_at is null",
        canonical_email
    );
    Ok(login.fetch_optional(db.pool()).await?)
}

/// The organizations of an account, and whether it owns each; in the order in which they are locked.
pub(crate) async fn organizations(tx: &mut Tx, id: UserId) -> Result<Vec<(OrgId, bool)>> {
    // Of every organization (no org_id): the account leaves all of them.
    let rows = query!(
        r#"select org_id, role = 'owner' as "owner!" from member where user_id = $1 order by org_id"#,
        id.0
    );
    Ok(rows.fetch_all(tx.conn()).await?.into_iter().map(|it| (it.org_id, it.owner)).collect())
}

/// Forgets with which identity providers an account could sign in.
pub(crate) async fn unlink_all(tx: &mut Tx, id: UserId) -> Result<()> {
    query!("delete from external_identity where user_id = $1", id.0).execute(tx.conn()).await?;
    Ok(())
}

/// Remembers an address that an account leaves.
pub(crate) async fn leave_address(tx: &mut Tx, id: UserId, old: &Address) -> Result<()> {
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

/// Takes the addresses that an account had before. One that is another account's by now stays that one's.
pub(crate) async fn take_former_addresses(tx: &mut Tx, id: UserId) -> Result<Vec<Address>> {
    let rows = query!(
        r#"delete from former_address where user_id = $1
           returning email as "email: Email", canonical_email,
               exists (select from account where account.canonical_email = former_address.canonical_email
                       and account.id <> $1) as "taken!""#,
        id.0
    );
    let rows = rows.fetch_all(tx.conn()).await?.into_iter().filter(|it| !it.taken);
    Ok(rows.map(|it| Address { typed: it.email, canonical: it.canonical_email }).collect())
}
