//! Every SQL statement about webhooks.

use chassis::{Changed, Db, Error, Result, ScopeGrant, Tx};
use sqlx::{query, query_as};
use time::OffsetDateTime;

use super::{Webhook, WebhookId};
use crate::notification::scope::store::scoped_store;

/// Selects whole webhooks. Takes the rest of the statement after `from webhook`, and its arguments.
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

// A webhook is deleted with its deliveries (NO-7).
scoped_store!(Webhook, WebhookId, "webhook", webhooks);

/// Stores a new webhook and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<Webhook>) -> Result<Webhook> {
    let webhook = created.state();
    query!(
        "insert into webhook (id, org_id, project_id, url, event_types, description, format, enabled, secret,
             created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        webhook.id as _,
        webhook.org_id as _,
        webhook.project_id.map(|it| it.0),
        webhook.url,
        &webhook.event_types,
        webhook.description,
        webhook.format as _,
        webhook.enabled,
        webhook.secret,
        webhook.created_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(created))
}

/// Locks a webhook that the dispatcher has leased, and returns its present state; `None` if it was deleted.
pub(crate) async fn lock_leased(tx: &mut Tx, leased: &Webhook) -> Result<Option<Webhook>> {
    let present =
        webhooks!("where org_id = $1 and id = $2 for update", leased.org_id as _, leased.id as _);
    Ok(present.fetch_optional(tx.conn()).await?)
}

/// The present settings of a webhook that the dispatcher has leased; `None` if it was disabled or deleted.
pub(crate) async fn enabled(db: &Db, leased: &Webhook) -> Result<Option<Webhook>> {
    let present =
        webhooks!("where org_id = $1 and id = $2 and enabled", leased.org_id as _, leased.id as _);
    Ok(present.fetch_optional(db.pool()).await?)
}

/// A webhook in the scope of the grant.
pub(crate) async fn get(db: &Db, grant: &ScopeGrant, id: WebhookId) -> Result<Webhook> {
    let webhook = webhooks!(
        "where org_id = $1 and id = $2 and ($3::uuid is null or project_id = $3)",
        grant.org_id().0,
        id.0,
        grant.project_id().map(|it| it.0),
    );
    webhook.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(WebhookId::NOUN))
}

/// Stores the new state of a webhook and its event. Pending deliveries of a webhook that is enabled again
/// become due.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Webhook>) -> Result<Webhook> {
    let webhook = changed.state();
    query!(
        "update webhook set url = $3, event_types = $4, description = $5, format = $6, enabled = $7,
             disabled_reason = $8, secret = $9, old_secret = $10, old_secret_until = $11, failure_count = $12,
             failing_since = $13,
             due_at = least(due_at, (select min(due_at) from webhook_delivery
                                     where webhook_id = $2 and state = 1))
         where org_id = $1 and id = $2",
        webhook.org_id as _,
        webhook.id as _,
        webhook.url,
        &webhook.event_types,
        webhook.description,
        webhook.format as _,
        webhook.enabled,
        webhook.disabled_reason,
        webhook.secret,
        webhook.old_secret.as_deref(),
        webhook.old_secret_until,
        webhook.failure_count,
        webhook.failing_since,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(changed))
}

/// Leases webhooks with due deliveries. No other process delivers to them until they are released or the
/// lease ends.
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

/// Ends the lease of a webhook, and stores its failures. It is due when its next delivery is, but not before
/// the end of the back-off.
pub(crate) async fn release(
    tx: &mut Tx,
    webhook: &Webhook,
    backoff_until: Option<OffsetDateTime>,
) -> Result<()> {
    let now = tx.now;
    // Deliveries queued during the lease have lowered due_at; `least` and `greatest` ignore nulls.
    query!(
        "update webhook set leased_until = null, failure_count = $3, failing_since = $4,
             last_triggered_at = $5,
             due_at = case when webhook.due_at is null and next.due_at is null then null
                           else greatest(least(webhook.due_at, next.due_at), $6) end
         from (select min(due_at) as due_at from webhook_delivery
               where webhook_id = $2 and state = 1) as next
         where webhook.org_id = $1 and webhook.id = $2",
        webhook.org_id as _,
        webhook.id as _,
        webhook.failure_count,
        webhook.failing_since,
        now,
        backoff_until,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
