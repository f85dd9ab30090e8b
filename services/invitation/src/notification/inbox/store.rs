//! Every SQL statement about notifications in the application.

use api::notification::NotificationCategory;
use chassis::{Db, Result, Tx, UserId, page::Page};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use super::InboxItem;
use crate::notification::catalogue::Notification;

/// Filter of a list.
pub(crate) struct Filter {
    pub(crate) org_id: Option<Uuid>,
    pub(crate) unread_only: bool,
    pub(crate) category: Option<NotificationCategory>,
}

/// Position in the notifications of an account.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Position {
    /// After the notification with this id.
    After(Uuid),
    /// At a creation time.
    CreatedAt(OffsetDateTime),
}

/// Numbers of unread notifications: all, and those of them that are critical.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnreadCount {
    pub(crate) all: i32,
    pub(crate) critical: i32,
}

/// Stores a notification for each of some accounts, and wakes their streams.
pub(crate) async fn insert(
    tx: &mut Tx,
    notification: &Notification,
    user_ids: &[Uuid],
) -> Result<()> {
    if user_ids.is_empty() {
        return Ok(());
    }
    for user_id in user_ids {
        tx.publish(*user_id);
    }
    let now = tx.now;
    let ids: Vec<_> = user_ids.iter().map(|_| chassis::id::new()).collect();
    // A notification belongs to an account, not to a tenant; org_id is the organization of the event.
    query!(
        "insert into notification (id, user_id, org_id, project_id, event_id, event_type, category, severity,
             title, body, created_at)
         select it.id, it.user_id, $3, $4, $5, $6, $7, $8, $9, $10, $11
         from unnest($1::uuid[], $2::uuid[]) as it (id, user_id)",
        &ids,
        user_ids,
        notification.org_id.map(|it| it.0),
        notification.project_id.map(|it| it.0),
        notification.event_id,
        notification.notification_type.name,
        i32::from(notification.notification_type.category),
        i32::from(notification.severity),
        notification.title,
        notification.body,
        now,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A page of an account's notifications, newest first.
pub(crate) async fn list(
    db: &Db,
    user_id: UserId,
    filter: &Filter,
    page: &Page,
) -> Result<Vec<InboxItem>> {
    let rows = query_as!(
        InboxItem,
        "select id, org_id, project_id, event_id, event_type, category, severity, title, body, created_at,
                read_at
         from notification
         where user_id = $1 and dismissed_at is null and ($2::uuid is null or org_id = $2)
           and (not $3 or read_at is null) and ($4::int is null or category = $4)
           and id < coalesce($5, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
         order by id desc limit $6",
        user_id.0,
        filter.org_id,
        filter.unread_only,
        filter.category.map(i32::from),
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(rows.fetch_all(db.pool()).await?)
}

/// An account's notifications from a position on, oldest first, 500 at most.
pub(crate) async fn list_from(
    db: &Db,
    user_id: UserId,
    position: Position,
) -> Result<Vec<InboxItem>> {
    // Rows of one account, of all its organizations (no org_id).
    let (after, created_at) = match position {
        Position::After(id) => (Some(id), None),
        Position::CreatedAt(time) => (None, Some(time)),
    };
    let rows = query_as!(
        InboxItem,
        "select id, org_id, project_id, event_id, event_type, category, severity, title, body, created_at,
                read_at
         from notification
         where user_id = $1 and dismissed_at is null
           and case when $2::uuid is null then created_at >= $3 else id > $2 end
         order by id limit 500",
        user_id.0,
        after,
        created_at,
    );
    Ok(rows.fetch_all(db.pool()).await?)
}

/// Counts an account's unread notifications, of one organization if one is given.
pub(crate) async fn count_unread(
    db: &Db,
    user_id: UserId,
    org_id: Option<Uuid>,
) -> Result<UnreadCount> {
    // Severity 3 is CRITICAL.
    let counts = query_as!(
        UnreadCount,
        r#"select count(*)::int as "all!", (count(*) filter (where severity = 3))::int as "critical!"
           from notification
           where user_id = $1 and read_at is null and dismissed_at is null
             and ($2::uuid is null or org_id = $2)"#,
        user_id.0,
        org_id,
    );
    Ok(counts.fetch_one(db.pool()).await?)
}

/// Marks an account's notifications as read: those with the ids, or all if there are no ids. Returns the
/// number of notifications that were unread.
pub(crate) async fn mark_read(tx: &mut Tx, user_id: UserId, ids: &[Uuid]) -> Result<i32> {
    // Rows of one account, of all its organizations (no org_id).
    let now = tx.now;
    let read = query!(
        "update notification set read_at = $3
         where user_id = $1 and read_at is null and (cardinality($2::uuid[]) = 0 or id = any($2))",
        user_id.0,
        ids,
        now,
    );
    Ok(i32::try_from(read.execute(tx.conn()).await?.rows_affected()).unwrap_or(i32::MAX))
}

/// Removes an account's notifications from its list: those with the ids, or all that are read if there are no
/// ids. Returns their number.
pub(crate) async fn dismiss(tx: &mut Tx, user_id: UserId, ids: &[Uuid]) -> Result<i32> {
    // Rows of one account, of all its organizations (no org_id).
    let now = tx.now;
    let dismissed = query!(
        "update notification set dismissed_at = $3
         where user_id = $1 and dismissed_at is null
           and case when cardinality($2::uuid[]) = 0 then read_at is not null else id = any($2) end",
        user_id.0,
        ids,
        now,
    );
    Ok(i32::try_from(dismissed.execute(tx.conn()).await?.rows_affected()).unwrap_or(i32::MAX))
}
