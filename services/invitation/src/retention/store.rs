//! Every SQL statement of the retention job, which works for all organizations.

use chassis::{Result, Tx, retention::BATCH};
use sqlx::{query, query_scalar};
use uuid::Uuid;

use super::{DELIVERIES_KEPT, DIGESTS_KEPT, INVITATIONS_KEPT, NOTIFICATIONS_KEPT};

/// Deletes invitations whose time is over for long, and their acceptances.
pub(super) async fn delete_invitations(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - INVITATIONS_KEPT;
    // Of every organization (no org_id): a timer works for all.
    // Those whose expiry is still to be told wait for it.
    let ids = query_scalar!(
        "select id from invitation
         where expires_at < $1 and (expiry_told_at is not null or revoked_at is not null)
         order by expires_at limit $2 for update",
        before,
        BATCH
    );
    let ids: Vec<Uuid> = ids.fetch_all(tx.conn()).await?.into_iter().map(|it| it.0).collect();
    query!("delete from acceptance where invitation_id = any($1)", &ids).execute(tx.conn()).await?;
    let gone = query!("delete from invitation where id = any($1)", &ids);
    Ok(gone.execute(tx.conn()).await?.rows_affected())
}

/// Deletes old notifications.
pub(super) async fn delete_notifications(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - NOTIFICATIONS_KEPT;
    // Of every organization (no org_id): a timer works for all.
    let gone = query!(
        "delete from notification where id in (
             select id from notification where created_at < $1 order by created_at limit $2)",
        before,
        BATCH
    );
    Ok(gone.execute(tx.conn()).await?.rows_affected())
}

/// Deletes the texts of mails that have left.
pub(super) async fn delete_digests(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - DIGESTS_KEPT;
    // Of every organization (no org_id): a timer works for all.
    let gone = query!(
        "delete from digest where id in (
             select id from digest where due_at < $1 order by due_at limit $2)",
        before,
        BATCH
    );
    Ok(gone.execute(tx.conn()).await?.rows_affected())
}

/// Deletes deliveries of webhooks that have ended.
pub(super) async fn delete_deliveries(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - DELIVERIES_KEPT;
    // Of every organization (no org_id): a timer works for all.
    let gone = query!(
        "delete from webhook_delivery where id in (
             select id from webhook_delivery where created_at < $1 and state <> 1
             order by created_at limit $2)",
        before,
        BATCH
    );
    Ok(gone.execute(tx.conn()).await?.rows_affected())
}
