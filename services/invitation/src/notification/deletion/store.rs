//! Every SQL statement that deletes notification data whose owner was deleted, or whose retention is over.

use chassis::{OrgId, ProjectId, Result, Tx, UserId};
use sqlx::query;
use time::Duration;
use worker::retention::BATCH;

use crate::recipient;

/// Retention of mails about events after the time at which they were due. Longer than the five days for which
/// mails are retried.
const DIGEST_RETENTION: Duration = Duration::days(7);

/// Deletes the data of an organization. Deliveries are deleted with their webhooks, items with their digests.
pub(in crate::notification) async fn delete_of_org(tx: &mut Tx, org_id: OrgId) -> Result<()> {
    let deletions = [
        query!("delete from webhook where org_id = $1", org_id.0),
        query!("delete from mail_rule where org_id = $1", org_id.0),
        query!("delete from alert where org_id = $1", org_id.0),
        query!("delete from digest where org_id = $1", org_id.0),
        query!("delete from notification where org_id = $1", org_id.0),
    ];
    for deletion in deletions {
        deletion.execute(tx.conn()).await?;
    }
    recipient::store::delete_of_org(tx, org_id).await
}

/// Deletes the webhooks, mail rules and alerts of a project. Notifications about it stay in the inboxes.
pub(in crate::notification) async fn delete_of_project(
    tx: &mut Tx,
    org_id: OrgId,
    id: ProjectId,
) -> Result<()> {
    let deletions = [
        query!("delete from webhook where org_id = $1 and project_id = $2", org_id.0, id.0),
        query!("delete from mail_rule where org_id = $1 and project_id = $2", org_id.0, id.0),
        query!("delete from alert where org_id = $1 and project_id = $2", org_id.0, id.0),
    ];
    for deletion in deletions {
        deletion.execute(tx.conn()).await?;
    }
    Ok(())
}

/// Deletes the preferences, the quiet hours, the notifications and the digests of an account.
pub(in crate::notification) async fn delete_of_user(tx: &mut Tx, user_id: UserId) -> Result<()> {
    // Rows of one account, of all its organizations (no org_id).
    let deletions = [
        query!("delete from preference where user_id = $1", user_id.0),
        query!("delete from quiet_hours where user_id = $1", user_id.0),
        query!("delete from notification where user_id = $1", user_id.0),
        query!("delete from digest where user_id = $1", user_id.0),
    ];
    for deletion in deletions {
        deletion.execute(tx.conn()).await?;
    }
    Ok(())
}

/// Deletes old mails about events; returns their number.
pub(in crate::notification) async fn delete_old(tx: &mut Tx) -> Result<u64> {
    // Of every organization (no org_id): the retention job works for all.
    let deletion = query!(
        "delete from digest where id in (
             select id from digest where due_at < $1 order by due_at limit $2)",
        tx.now - DIGEST_RETENTION,
        BATCH
    );
    Ok(deletion.execute(tx.conn()).await?.rows_affected())
}
