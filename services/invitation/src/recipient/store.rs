//! Every SQL statement about recipients of mail.

use api::notification::{NotificationCategory, NotificationChannel};
use chassis::{Db, Error, Grant, OrgId, Result, Tx, UserId, page::Page};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::SilencedAddress;

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

/// Records that the mail server of an address permanently rejected a mail of an organization.
pub(crate) async fn silence(tx: &mut Tx, org_id: OrgId, address: &str, reply: &str) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into silenced_address (org_id, address, silenced_at, reply) values ($1, $2, $3, $4)
         on conflict (org_id, address) do update set silenced_at = $3, reply = $4",
        org_id.0,
        address,
        now,
        reply
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A page of the silenced addresses of an organization, by address.
pub(crate) async fn list_silenced(
    db: &Db,
    grant: &Grant,
    page: &Page,
) -> Result<Vec<SilencedAddress>> {
    let rows = query_as!(
        SilencedAddress,
        "select address, silenced_at, reply from silenced_address
         where org_id = $1 and address > coalesce($2, '') order by address limit $3",
        grant.org_id().0,
        page.after::<String>()?,
        page.limit(),
    );
    Ok(rows.fetch_all(db.pool()).await?)
}

/// Deletes a silenced address of an organization, and returns it.
pub(crate) async fn clear_silenced(
    tx: &mut Tx,
    org_id: OrgId,
    address: &str,
) -> Result<SilencedAddress> {
    let cleared = query_as!(
        SilencedAddress,
        "delete from silenced_address where org_id = $1 and address = $2
         returning address, silenced_at, reply",
        org_id.0,
        address,
    );
    cleared.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound("silenced address"))
}

/// Deletes an address from the silenced ones of every organization, and the rejections that an older version
/// has recorded. Its opt-out stays in force.
pub(crate) async fn delete_rejections(tx: &mut Tx, address: &str) -> Result<()> {
    // Of every organization (no org_id): the person behind the address is erased.
    query!("delete from silenced_address where address = $1", address).execute(tx.conn()).await?;
    query!("delete from recipient where address = $1 and opted_out_at is null", address)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Deletes the silenced addresses of an organization.
pub(crate) async fn delete_of_org(tx: &mut Tx, org_id: OrgId) -> Result<()> {
    query!("delete from silenced_address where org_id = $1", org_id.0).execute(tx.conn()).await?;
    Ok(())
}

/// True if an address opted out, or is silenced for an organization.
pub(crate) async fn is_undeliverable(
    db: &Db,
    org_id: Option<OrgId>,
    address: &str,
) -> Result<bool> {
    let org_id: Uuid = org_id.map(|it| it.0).unwrap_or_default();
    let found = query_scalar!(
        r#"select exists (select from recipient where address = $1 and opted_out_at is not null)
               or exists (select from silenced_address where org_id = $2 and address = $1) as "found!""#,
        address,
        org_id,
    );
    Ok(found.fetch_one(db.pool()).await?)
}

/// Turns the mails of a category off for an account: everywhere, and in each organization and project for
/// which they were turned on.
pub(crate) async fn turn_off(
    tx: &mut Tx,
    user_id: UserId,
    category: NotificationCategory,
) -> Result<()> {
    let channel = i32::from(NotificationChannel::Email);
    query!(
        "update preference set enabled = false where user_id = $1 and category = $2 and channel = $3",
        user_id.0,
        i32::from(category),
        channel,
    )
    .execute(tx.conn())
    .await?;
    query!(
        "insert into preference (user_id, category, channel, org_id, project_id, enabled)
         values ($1, $2, $3, $4, $4, false)
         on conflict (user_id, category, channel, org_id, project_id) do nothing",
        user_id.0,
        i32::from(category),
        channel,
        Uuid::nil(),
    )
    .execute(tx.conn())
    .await?;
    tx.emit(super::turned_off_event(user_id, category));
    Ok(())
}

/// True if an account has turned the mails of a category off everywhere, and on nowhere.
pub(crate) async fn is_turned_off(
    db: &Db,
    user_id: Uuid,
    category: NotificationCategory,
) -> Result<bool> {
    let enabled = query_scalar!(
        r#"select bool_or(enabled) as "enabled" from preference
           where user_id = $1 and category = $2 and channel = $3
           having bool_or(org_id = $4 and project_id = $4)"#,
        user_id,
        i32::from(category),
        i32::from(NotificationChannel::Email),
        Uuid::nil(),
    );
    let enabled = enabled.fetch_optional(db.pool()).await?.flatten();
    Ok(category != NotificationCategory::Security && enabled == Some(false))
}
