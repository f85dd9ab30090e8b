//! Every SQL statement about addresses.

use chassis::{Db, Result, Tx};
use sqlx::{query, query_scalar};

/// Whether an address wants no mail from strangers. Where it is refused is not remembered against it: a
/// mailbox can be mended.
pub(crate) async fn opted_out(db: &Db, address: &str) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (
               select from recipient where address = $1 and opted_out_at is not null
           ) as "found!""#,
        address
    );
    Ok(found.fetch_one(db.pool()).await?)
}

/// An address wants no more mail from strangers.
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

/// An address's server refused a mail for good.
pub(crate) async fn bounce(tx: &mut Tx, address: &str) -> Result<()> {
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

/// Forgets that a server refused an address. That its owner wants no mail stays: it still binds.
pub(crate) async fn forget_bounce(tx: &mut Tx, address: &str) -> Result<()> {
    query!("delete from recipient where address = $1 and opted_out_at is null", address)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Whether nothing is mailed to an address by rules: it wants nothing, or its server refuses what comes.
pub(crate) async fn silent(db: &Db, address: &str) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (
               select from recipient
               where address = $1 and (opted_out_at is not null or bounced_at is not null)
           ) as "found!""#,
        address
    );
    Ok(found.fetch_one(db.pool()).await?)
}
