//! Every SQL statement about deliveries of webhooks. States in statements are 1 PENDING, 2 DELIVERED, 3
//! FAILED.

use api::notification::DeliveryState;
use chassis::{Db, Grant, Result, Tx, page::Page};
use sqlx::{query, query_as};
use uuid::Uuid;
use worker::queue::{COUNT_MAX, QueueState};

use super::{Attempt, Delivery, DueDelivery, QueuedEvent};
use crate::notification::webhook::{Webhook, WebhookId};

/// Deliveries to make due again.
pub(crate) struct ReplayFilter {
    /// Only deliveries after this one.
    pub(crate) after: Option<Uuid>,
    /// Only failed deliveries.
    pub(crate) failed_only: bool,
}

/// Queues one delivery for each webhook of an event.
pub(crate) async fn enqueue(tx: &mut Tx, event: &QueuedEvent) -> Result<()> {
    let now = tx.now;
    let traceparent = tx.traceparent().to_owned();
    let ids: Vec<_> = event.webhook_ids.iter().map(|_| chassis::id::new()).collect();
    query!(
        "insert into webhook_delivery (id, org_id, webhook_id, event_id, event_type, body, state, due_at,
             created_at, traceparent)
         select it.id, $4, it.webhook_id, $5, $6, it.body, 1, $7, $7, $8
         from unnest($1::uuid[], $2::uuid[], $3::text[]) as it (id, webhook_id, body)",
        &ids,
        &event.webhook_ids,
        &event.bodies,
        event.org_id.0,
        event.event_id,
        event.event_type,
        now,
        traceparent,
    )
    .execute(tx.conn())
    .await?;
    query!(
        "update webhook set due_at = least(due_at, $3) where org_id = $1 and id = any($2)",
        event.org_id.0,
        &event.webhook_ids,
        now,
    )
    .execute(tx.conn())
    .await?;
    tx.wake();
    Ok(())
}

/// The deliveries of a webhook that are due, oldest first.
pub(crate) async fn due(db: &Db, webhook: &Webhook, limit: i64) -> Result<Vec<DueDelivery>> {
    let rows = query_as!(
        DueDelivery,
        "select id, event_id, body, attempts, traceparent from webhook_delivery
         where org_id = $1 and webhook_id = $2 and state = 1 and due_at <= $3 order by due_at, id limit $4",
        webhook.org_id as _,
        webhook.id as _,
        db.now(),
        limit,
    );
    Ok(rows.fetch_all(db.pool()).await?)
}

/// Returns the state of the queue of deliveries, for operators.
pub(crate) async fn queue(db: Db) -> Result<QueueState> {
    // Of all organizations (no org_id): only a number and a time.
    let state = query!(
        r#"with waiting as (select created_at from webhook_delivery where state = 1 limit $1)
           select count(*) as "waiting!", min(created_at) as oldest_at from waiting"#,
        COUNT_MAX
    );
    let state = state.fetch_one(db.pool()).await?;
    Ok(QueueState { waiting: state.waiting, oldest_at: state.oldest_at })
}

/// Stores the result of an attempt.
pub(crate) async fn record(tx: &mut Tx, attempt: &Attempt<'_>) -> Result<()> {
    let delivered_at = (attempt.state == DeliveryState::Delivered).then_some(tx.now);
    let response = attempt.response;
    query!(
        "update webhook_delivery set state = $3, attempts = attempts + 1, due_at = $4, delivered_at = $5,
             response_status = $6, duration_ms = $7, response_body = $8, failure = $9
         where org_id = $1 and id = $2",
        attempt.org_id.0,
        attempt.delivery_id,
        i32::from(attempt.state),
        attempt.due_at,
        delivered_at,
        response.status,
        response.duration_ms,
        response.body,
        response.error(),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A page of the deliveries of a webhook, newest first; in one state only, if one is given.
pub(crate) async fn list(
    db: &Db,
    grant: &Grant,
    webhook_id: WebhookId,
    state: Option<DeliveryState>,
    page: &Page,
) -> Result<Vec<Delivery>> {
    let rows = query_as!(
        Delivery,
        "select id, event_id, event_type, state, attempts, due_at, created_at, delivered_at, response_status,
                duration_ms, response_body, failure
         from webhook_delivery
         where org_id = $1 and webhook_id = $2 and ($3::int is null or state = $3)
           and id < coalesce($4, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
         order by id desc limit $5",
        grant.org_id().0,
        webhook_id.0,
        state.map(i32::from),
        page.after::<Uuid>()?,
        page.limit(),
    );
    Ok(rows.fetch_all(db.pool()).await?)
}

/// Makes ended deliveries of a webhook due again. Returns their number.
pub(crate) async fn replay(tx: &mut Tx, webhook: &Webhook, filter: &ReplayFilter) -> Result<i32> {
    let now = tx.now;
    let replayed = query!(
        "update webhook_delivery set state = 1, attempts = 0, due_at = $5, delivered_at = null
         where org_id = $1 and webhook_id = $2 and state <> 1
           and id > coalesce($3, '00000000-0000-0000-0000-000000000000'::uuid)
           and (state = 3 or not $4)",
        webhook.org_id as _,
        webhook.id as _,
        filter.after,
        filter.failed_only,
        now,
    )
    .execute(tx.conn())
    .await?;
    query!(
        "update webhook set due_at = least(due_at, $3) where org_id = $1 and id = $2",
        webhook.org_id as _,
        webhook.id as _,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(i32::try_from(replayed.rows_affected()).unwrap_or(i32::MAX))
}

/// Fails the pending deliveries of a disabled webhook.
pub(crate) async fn fail_pending(tx: &mut Tx, webhook: &Webhook) -> Result<()> {
    query!(
        "update webhook_delivery set state = 3, failure = $3
         where org_id = $1 and webhook_id = $2 and state = 1",
        webhook.org_id as _,
        webhook.id as _,
        webhook.disabled_reason,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
