//! Every SQL statement about second factors.

use chassis::{Result, Tx, UserId, key};
use sqlx::query;

use super::{Authenticator, code_hash};

/// Whether a code is right. If it is, it is used: no code works twice. `only_app` leaves recovery codes out.
pub(crate) async fn use_code(
    tx: &mut Tx,
    sealer: &key::Secret,
    user_id: UserId,
    code: &str,
    only_app: bool,
) -> Result<bool> {
    let row = query!(
        "select totp_secret, totp_step from account where id = $1 and totp_secret is not null for update",
        user_id.0
    );
    let Some(row) = row.fetch_optional(tx.conn()).await? else { return Ok(false) };
    let authenticator = Authenticator::open(sealer, user_id, &row.totp_secret.unwrap_or_default());
    let now = tx.now;
    if let Some(step) = authenticator.and_then(|it| it.step(code, row.totp_step, now)) {
        query!("update account set totp_step = $2 where id = $1", user_id.0, step)
            .execute(tx.conn())
            .await?;
        return Ok(true);
    }
    if only_app {
        return Ok(false);
    }
    let used = query!(
        "update recovery_code set used_at = $3 where user_id = $1 and code_hash = $2 and used_at is null",
        user_id.0,
        code_hash(code),
        now
    );
    Ok(used.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Stores a new secret; the second factor is not on yet.
pub(crate) async fn enroll(tx: &mut Tx, user_id: UserId, sealed: &[u8]) -> Result<()> {
    query!("update account set totp_secret = $2, totp_step = 0 where id = $1", user_id.0, sealed)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Forgets the secret and the recovery codes.
pub(crate) async fn forget(tx: &mut Tx, user_id: UserId) -> Result<()> {
    query!("update account set totp_secret = null where id = $1", user_id.0)
        .execute(tx.conn())
        .await?;
    query!("delete from recovery_code where user_id = $1", user_id.0).execute(tx.conn()).await?;
    Ok(())
}

/// Stores recovery codes in place of the old ones.
pub(crate) async fn replace_codes(tx: &mut Tx, user_id: UserId, codes: &[String]) -> Result<()> {
    query!("delete from recovery_code where user_id = $1", user_id.0).execute(tx.conn()).await?;
    for code in codes {
        query!(
            "insert into recovery_code (user_id, code_hash) values ($1, $2)",
            user_id.0,
            code_hash(code)
        )
        .execute(tx.conn())
        .await?;
    }
    Ok(())
}
