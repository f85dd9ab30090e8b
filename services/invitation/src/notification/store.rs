//! Every SQL statement about notifications.

use chassis::{Db, Result, Tx, UserId, page::Page};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Notification;
use crate::catalogue::Story;

/// Tells some people.
pub(crate) async fn insert(tx: &mut Tx, story: &Story, user_ids: &[Uuid]) -> Result<()> {
    if user_ids.is_empty() {
        return Ok(());
    }
    for user_id in user_ids {
        tx.publish(*user_id);
    }
    let now = tx.now;
    let ids: Vec<_> = user_ids.iter().map(|_| chassis::id::new()).collect();
    // A notification belongs to a person, not to a tenant; the tenant is what it is about: org_id is
    // inserted.
    query!(
        "insert into notification (id, user_id, org_id, project_id, event_id, event_type, category, severity,
             title, body, created_at)
         select it.id, it.user_id, $3, $4, $5, $6, $7, $8, $9, $10, $11
         from unnest($1::uuid[], $2::uuid[]) as it (id, user_id)",
        &ids,
        user_ids,
        story.org_id.map(|it| it.0),
        story.project_id.map(|it| it.0),
        story.event_id,
        story.kind.name,
        i32::from(story.kind.category),
        i32::from(story.severity),
        story.title,
        story.body,
        now,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What a list shows.
pub(crate) struct Filter {
    pub(crate) org_id: Option<Uuid>,
    pub(crate) unread_only: bool,
    pub(crate) category: Option<i32>,
}

/// A page of a person's notifications, newest first.
pub(crate) async fn list(
    db: &Db,
    user_id: UserId,
    filter: &Filter,
    page: &Page,
) -> Result<Vec<Notification>> {
    let rows = query_as!(
        Notification,
        "select id, org_id, project_id, event_id, event_type, category, severity, title, body, created_at,
                read_at
         from notification
         where user_id = $1 and dismissed_at is null and ($2::uuid is null or org_id = $2)
           and (not $3 or read_at is null) and ($4::int is null or category = $4)
           and ($5::uuid is null or id < $5)
         order by id desc limit $6",
        user_id.0,
        filter.org_id,
        filter.unread_only,
        filter.category,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(rows.fetch_all(db.pool()).await?)
}

/// What a person was told since a moment, oldest first.
pub(crate) async fn since(
    db: &Db,
    user_id: UserId,
    (after, from): (Option<Uuid>, OffsetDateTime),
) -> Result<Vec<Notification>> {
    let rows = query_as!(
        Notification,
        "select id, org_id, project_id, event_id, event_type, category, severity, title, body, created_at,
                read_at
         from notification
         where user_id = $1 and dismissed_at is null
           and case when $2::uuid is null then created_at >= $3 else id > $2 end
         order by id limit 500",
        user_id.0,
        after,
        from,
    );
    Ok(rows.fetch_all(db.pool()).await?)
}

/// How many a person has not read, and how many of them are critical.
pub(crate) async fn unread(db: &Db, user_id: UserId, org_id: Option<Uuid>) -> Result<(i32, i32)> {
    let row = query!(
        r#"select count(*)::int as "all!", (count(*) filter (where severity = 3))::int as "critical!"
           from notification
           where user_id = $1 and read_at is null and dismissed_at is null
             and ($2::uuid is null or org_id = $2)"#,
        user_id.0,
        org_id,
    );
    let row = row.fetch_one(db.pool()).await?;
    Ok((row.all, row.critical))
}

/// Marks a person's notifications as read: these, or all. Answers how many were not.
pub(crate) async fn read(tx: &mut Tx, user_id: UserId, ids: &[Uuid]) -> Result<i32> {
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

/// Takes a person's notifications out of their list: these, or all that are read.
pub(crate) async fn dismiss(tx: &mut Tx, user_id: UserId, ids: &[Uuid]) -> Result<i32> {
    let now = tx.now;
    let gone = query!(
        "update notification set dismissed_at = $3
         where user_id = $1 and dismissed_at is null
           and case when cardinality($2::uuid[]) = 0 then read_at is not null else id = any($2) end",
        user_id.0,
        ids,
        now,
    );
    Ok(i32::try_from(gone.execute(tx.conn()).await?.rows_affected()).unwrap_or(i32::MAX))
}

/// Forgets what a person was told.
pub(crate) async fn forget(tx: &mut Tx, user_id: UserId) -> Result<()> {
    query!("delete from notification where user_id = $1", user_id.0).execute(tx.conn()).await?;
    Ok(())
}

/// Forgets what anybody was told of an organization.
pub(crate) async fn purge(tx: &mut Tx, org_id: chassis::OrgId) -> Result<()> {
    query!("delete from notification where org_id = $1", org_id.0).execute(tx.conn()).await?;
    Ok(())
}
