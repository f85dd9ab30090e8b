//! Every SQL statement about recipients of mail.

use chassis::{Db, Result, Tx};
use sqlx::{query, query_scalar};

/// True if an address opted out. Rejections by its mail server do not count, because they can be temporary.
pub(crate) async fn has_opted_out(db: &Db, address: &str) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (
               select from recipient where address = $1 and opted_out_at is not null
           ) as "found!""#,
        address
    );
    Ok(found.fetch_one(db.pool()).await?)
}

/// Opts an address out of mail from organizations.
pub(crate) async fn opt_out(tx: &mut Tx, address: &str) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into recipient (address, opted_out_at) values ($1, $2)
         on conflict (address) do update set opted_out_at = coalesce(recipient.opted_out_at, $2)",
        address,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Records that the mail server of an address permanently rejected a mail.
pub(crate) async fn record_bounce(tx: &mut Tx, address: &str) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into recipient (address, bounced_at) values ($1, $2)
         on conflict (address) do update set bounced_at = $2",
        address,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Deletes the rejections of an address. Its opt-out stays in force.
pub(crate) async fn delete_bounce(tx: &mut Tx, address: &str) -> Result<()> {
    query!("delete from recipient where address = $1 and opted_out_at is null", address)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// True if an address opted out, or its mail server rejects mail.
pub(crate) async fn is_undeliverable(db: &Db, address: &str) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (
               select from recipient
               where address = $1 and (opted_out_at is not null or bounced_at is not null)
           ) as "found!""#,
        address
    );
    Ok(found.fetch_one(db.pool()).await?)
}
