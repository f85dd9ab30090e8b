//! SQL of second factors.

use chassis::{Result, Tx, UserId, key};
use identity_rules::second_factor::{Authenticator, CodeKind, hash_recovery_code};
use sqlx::query;

/// Verifies a code and marks it as used; returns false if it is wrong or was used before.
pub(crate) async fn consume_code(
    tx: &mut Tx,
    sealer: &key::DerivedKeys,
    user_id: UserId,
    code: &str,
    accepted: CodeKind,
) -> Result<bool> {
    let row = query!(
        "select totp_secret, totp_step from account where id = $1 and totp_secret is not null for update",
        user_id.0
    );
    let Some(row) = row.fetch_optional(tx.conn()).await? else { return Ok(false) };
    let authenticator = Authenticator::open(sealer, user_id, &row.totp_secret.unwrap_or_default());
    let now = tx.now;
    if let Some(step) = authenticator.and_then(|it| it.verify(code, row.totp_step, now)) {
        query!("update account set totp_step = $2 where id = $1", user_id.0, step)
            .execute(tx.conn())
            .await?;
        return Ok(true);
    }
    if accepted == CodeKind::Authenticator {
        return Ok(false);
    }
    let used = query!(
        "update recovery_code set used_at = $3 where user_id = $1 and code_hash = $2 and used_at is null",
        user_id.0,
        hash_recovery_code(code),
        now
    );
    Ok(used.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Stores a new secret. The second factor is enabled only when a first code is confirmed.
pub(crate) async fn enroll(tx: &mut Tx, user_id: UserId, sealed: &[u8]) -> Result<()> {
    query!("update account set totp_secret = $2, totp_step = 0 where id = $1", user_id.0, sealed)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Deletes the secret and the recovery codes.
pub(crate) async fn delete(tx: &mut Tx, user_id: UserId) -> Result<()> {
    query!("update account set totp_secret = null where id = $1", user_id.0)
        .execute(tx.conn())
        .await?;
    query!("delete from recovery_code where user_id = $1", user_id.0).execute(tx.conn()).await?;
    Ok(())
}

/// Replaces the recovery codes.
pub(crate) async fn replace_recovery_codes(
    tx: &mut Tx,
    user_id: UserId,
    codes: &[String],
) -> Result<()> {
    query!("delete from recovery_code where user_id = $1", user_id.0).execute(tx.conn()).await?;
    for code in codes {
        query!(
            "insert into recovery_code (user_id, code_hash) values ($1, $2)",
            user_id.0,
            hash_recovery_code(code)
        )
        .execute(tx.conn())
        .await?;
    }
    Ok(())
}
