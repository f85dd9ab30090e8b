//! Every SQL statement about webhooks and their deliveries.

use chassis::{Changed, Db, Error, Grant, OrgId, ProjectId, Result, ScopeGrant, Tx, page::Page};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{State, Webhook, WebhookId, sender::Answer};

/// Selects whole webhooks: the rest of the statement after `from webhook`, and its arguments.
macro_rules! webhooks {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            Webhook,
            "select id, org_id, project_id, url, event_types, description, format, enabled, disabled_reason,
                    secret, old_secret, old_secret_until, failure_count, failing_since, last_triggered_at,
                    created_at
             from webhook " + $rest
            $(, $argument)*
        )
    };
}

/// One event on its way to a webhook.
pub(crate) struct Delivery {
    pub(crate) id: Uuid,
    pub(crate) event_id: Uuid,
    pub(crate) event_type: String,
    pub(crate) state: i32,
    pub(crate) attempts: i32,
    pub(crate) due_at: OffsetDateTime,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) delivered_at: Option<OffsetDateTime>,
    pub(crate) response_status: i32,
    pub(crate) duration_ms: i32,
    pub(crate) response_body: String,
    pub(crate) failure: String,
}

/// What is to be sent.
pub(crate) struct Due {
    pub(crate) id: Uuid,
    pub(crate) event_id: Uuid,
    pub(crate) body: String,
    pub(crate) attempts: i32,
}

/// What is to be sent, to whom.
pub(crate) struct Subscribed {
    pub(crate) id: WebhookId,
    pub(crate) format: i32,
}

/// How many webhooks an organization has. Keeps others from making one until the transaction ends.
pub(crate) async fn count(tx: &mut Tx, org_id: OrgId) -> Result<i64> {
    query!("select pg_advisory_xact_lock(hashtextextended($1, 2))", org_id.to_string())
        .fetch_one(tx.conn())
        .await?;
    let count =
        query_scalar!(r#"select count(*) as "count!" from webhook where org_id = $1"#, org_id.0);
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Stores a new webhook and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<Webhook>) -> Result<Webhook> {
    let it = created.state();
    query!(
        "insert into webhook (id, org_id, project_id, url, event_types, description, format, enabled, secret,
             created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        it.id as _,
        it.org_id as _,
        it.project_id.map(|it| it.0),
        it.url,
        &it.event_types,
        it.description,
        it.format,
        it.enabled,
        it.secret,
        it.created_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(created))
}

/// Loads a webhook of the organization, or of the project that the grant is about, and keeps others from
/// changing it.
pub(crate) async fn lock(tx: &mut Tx, grant: &ScopeGrant, id: WebhookId) -> Result<Webhook> {
    let project_id = grant.project_id().map(|it| it.0);
    let it = webhooks!(
        "where org_id = $1 and id = $2 and ($3::uuid is null or project_id = $3) for update",
        grant.org_id().0,
        id.0,
        project_id,
    );
    it.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(WebhookId::NOUN))
}

/// Loads a webhook that the dispatcher holds, as it is now, and keeps others from changing it.
pub(crate) async fn lock_held(tx: &mut Tx, it: &Webhook) -> Result<Option<Webhook>> {
    let it = webhooks!("where org_id = $1 and id = $2 for update", it.org_id as _, it.id as _);
    Ok(it.fetch_optional(tx.conn()).await?)
}

/// One webhook.
pub(crate) async fn get(db: &Db, grant: &ScopeGrant, id: WebhookId) -> Result<Webhook> {
    let it = webhooks!(
        "where org_id = $1 and id = $2 and ($3::uuid is null or project_id = $3)",
        grant.org_id().0,
        id.0,
        grant.project_id().map(|it| it.0),
    );
    it.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(WebhookId::NOUN))
}

/// A page of webhooks, newest first.
pub(crate) async fn list(db: &Db, grant: &ScopeGrant, page: &Page) -> Result<Vec<Webhook>> {
    let rows = webhooks!(
        "where org_id = $1 and ($2::uuid is null or project_id = $2) and ($3::uuid is null or id < $3)
         order by id desc limit $4",
        grant.org_id().0,
        grant.project_id().map(|it| it.0),
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(rows.fetch_all(db.pool()).await?)
}

/// Stores a webhook as it is now, and its event. What waits for one that is enabled again is due.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Webhook>) -> Result<Webhook> {
    let it = changed.state();
    query!(
        "update webhook set url = $3, event_types = $4, description = $5, format = $6, enabled = $7,
             disabled_reason = $8, secret = $9, old_secret = $10, old_secret_until = $11, failure_count = $12,
             failing_since = $13,
             due_at = least(due_at, (select min(due_at) from webhook_delivery
                                     where webhook_id = $2 and state = 1))
         where org_id = $1 and id = $2",
        it.org_id as _,
        it.id as _,
        it.url,
        &it.event_types,
        it.description,
        it.format,
        it.enabled,
        it.disabled_reason,
        it.secret,
        it.old_secret.as_deref(),
        it.old_secret_until,
        it.failure_count,
        it.failing_since,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(changed))
}

/// Deletes a webhook with its deliveries (NO-7).
pub(crate) async fn delete(tx: &mut Tx, gone: Changed<Webhook>) -> Result<()> {
    let it = gone.state();
    query!("delete from webhook where org_id = $1 and id = $2", it.org_id as _, it.id as _)
        .execute(tx.conn())
        .await?;
    tx.emit(gone);
    Ok(())
}

/// Deletes what is of one project only.
pub(crate) async fn forget_project(tx: &mut Tx, org_id: OrgId, id: ProjectId) -> Result<()> {
    query!("delete from webhook where org_id = $1 and project_id = $2", org_id.0, id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Deletes everything of an organization.
pub(crate) async fn purge(tx: &mut Tx, org_id: OrgId) -> Result<()> {
    query!("delete from webhook where org_id = $1", org_id.0).execute(tx.conn()).await?;
    Ok(())
}

/// The webhooks that want an event (NO-8).
pub(crate) async fn subscribed(
    tx: &mut Tx,
    (org_id, project_id): (OrgId, Option<ProjectId>),
    event_type: &str,
) -> Result<Vec<Subscribed>> {
    let rows = query_as!(
        Subscribed,
        "select id, format from webhook
         where org_id = $1 and enabled and (project_id is null or project_id = $2)
           and (event_types = '{}' or $3 = any(event_types))
         order by id",
        org_id.0,
        project_id.map(|it| it.0),
        event_type,
    );
    Ok(rows.fetch_all(tx.conn()).await?)
}

/// Queues deliveries of one event: one body for each webhook.
pub(crate) async fn enqueue(
    tx: &mut Tx,
    org_id: OrgId,
    (event_id, event_type): (Uuid, &str),
    (webhook_ids, bodies): (&[Uuid], &[String]),
) -> Result<()> {
    let now = tx.now;
    let ids: Vec<_> = webhook_ids.iter().map(|_| chassis::id::new()).collect();
    query!(
        "insert into webhook_delivery (id, org_id, webhook_id, event_id, event_type, body, state, due_at,
             created_at)
         select it.id, $4, it.webhook_id, $5, $6, it.body, 1, $7, $7
         from unnest($1::uuid[], $2::uuid[], $3::text[]) as it (id, webhook_id, body)",
        &ids,
        webhook_ids,
        bodies,
        org_id.0,
        event_id,
        event_type,
        now,
    )
    .execute(tx.conn())
    .await?;
    query!(
        "update webhook set due_at = least(due_at, $3) where org_id = $1 and id = any($2)",
        org_id.0,
        webhook_ids,
        now,
    )
    .execute(tx.conn())
    .await?;
    tx.wake();
    Ok(())
}

/// Takes webhooks that have something due, for a while. Nobody else delivers to them until they are given
/// back or the time is over.
pub(crate) async fn lease(tx: &mut Tx, limit: i64, until: OffsetDateTime) -> Result<Vec<Webhook>> {
    let now = tx.now;
    // Of every organization (no org_id): the dispatcher works for all.
    let rows = query_as!(
        Webhook,
        "update webhook set leased_until = $3, due_at = null
         where id in (
             select id from webhook
             where enabled and ((leased_until is null and due_at <= $1) or leased_until <= $1)
             order by due_at limit $2 for update skip locked
         )
         returning id, org_id, project_id, url, event_types, description, format, enabled, disabled_reason,
             secret, old_secret, old_secret_until, failure_count, failing_since, last_triggered_at,
             created_at",
        now,
        limit,
        until,
    );
    Ok(rows.fetch_all(tx.conn()).await?)
}

/// What is due for a webhook, oldest first.
pub(crate) async fn due(db: &Db, it: &Webhook, limit: i64) -> Result<Vec<Due>> {
    let rows = query_as!(
        Due,
        "select id, event_id, body, attempts from webhook_delivery
         where org_id = $1 and webhook_id = $2 and state = 1 and due_at <= $3 order by due_at, id limit $4",
        it.org_id as _,
        it.id as _,
        db.now(),
        limit,
    );
    Ok(rows.fetch_all(db.pool()).await?)
}

/// Writes down what became of a try.
pub(crate) async fn tried(
    tx: &mut Tx,
    (org_id, id): (OrgId, Uuid),
    (state, next): (State, OffsetDateTime),
    answer: &Answer,
) -> Result<()> {
    let delivered_at = (state == State::Delivered).then_some(tx.now);
    query!(
        "update webhook_delivery set state = $3, attempts = attempts + 1, due_at = $4, delivered_at = $5,
             response_status = $6, duration_ms = $7, response_body = $8, failure = $9
         where org_id = $1 and id = $2",
        org_id.0,
        id,
        state as i32,
        next,
        delivered_at,
        answer.status,
        answer.duration_ms,
        answer.body,
        answer.failure.as_ref().map(|it| it.1.as_str()).unwrap_or_default(),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Gives a webhook back. It is due when its next delivery is, but not before `rest`.
pub(crate) async fn release(tx: &mut Tx, it: &Webhook, rest: Option<OffsetDateTime>) -> Result<()> {
    let now = tx.now;
    // What came meanwhile has lowered due_at; `least` and `greatest` pass over what is null.
    query!(
        "update webhook set leased_until = null, failure_count = $3, failing_since = $4,
             last_triggered_at = $5,
             due_at = case when webhook.due_at is null and next.due_at is null then null
                           else greatest(least(webhook.due_at, next.due_at), $6) end
         from (select min(due_at) as due_at from webhook_delivery
               where webhook_id = $2 and state = 1) as next
         where webhook.org_id = $1 and webhook.id = $2",
        it.org_id as _,
        it.id as _,
        it.failure_count,
        it.failing_since,
        now,
        rest,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A page of the deliveries of a webhook, newest first; of one state only, if one is named.
pub(crate) async fn deliveries(
    db: &Db,
    grant: &Grant,
    (id, state): (WebhookId, Option<i32>),
    page: &Page,
) -> Result<Vec<Delivery>> {
    let rows = query_as!(
        Delivery,
        "select id, event_id, event_type, state, attempts, due_at, created_at, delivered_at, response_status,
                duration_ms, response_body, failure
         from webhook_delivery
         where org_id = $1 and webhook_id = $2 and ($3::int is null or state = $3)
           and ($4::uuid is null or id < $4)
         order by id desc limit $5",
        grant.org_id().0,
        id.0,
        state,
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(rows.fetch_all(db.pool()).await?)
}

/// Makes deliveries due again: everything after one of them. Answers how many.
pub(crate) async fn replay(
    tx: &mut Tx,
    it: &Webhook,
    (after, failed_only): (Option<Uuid>, bool),
) -> Result<i32> {
    let now = tx.now;
    let again = query!(
        "update webhook_delivery set state = 1, attempts = 0, due_at = $5, delivered_at = null
         where org_id = $1 and webhook_id = $2 and state <> 1 and ($3::uuid is null or id > $3)
           and (state = 3 or not $4)",
        it.org_id as _,
        it.id as _,
        after,
        failed_only,
        now,
    )
    .execute(tx.conn())
    .await?;
    query!(
        "update webhook set due_at = least(due_at, $3) where org_id = $1 and id = $2",
        it.org_id as _,
        it.id as _,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(i32::try_from(again.rows_affected()).unwrap_or(i32::MAX))
}

/// Gives up what waits for a webhook that is disabled.
pub(crate) async fn give_up(tx: &mut Tx, it: &Webhook) -> Result<()> {
    query!(
        "update webhook_delivery set state = 3, failure = $3
         where org_id = $1 and webhook_id = $2 and state = 1",
        it.org_id as _,
        it.id as _,
        it.disabled_reason,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
