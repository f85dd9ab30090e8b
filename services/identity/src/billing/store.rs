//! SQL of subscriptions and of the webhooks of the billing provider.

use chassis::{Db, OrgId, Result, Tx};
use identity_rules::{
    billing::{ProviderStatus, SeatPolicy, SubscriptionRecord, webhook::Event},
    organization::Plan,
};
use sqlx::{query, query_as, query_scalar};
use time::{Duration, OffsetDateTime};
use worker::retention::BATCH;

use crate::column::Stored;

/// Interval of the comparison with the provider.
const RECONCILIATION_INTERVAL: Duration = Duration::days(1);

/// Pause between two calls to the provider for one organization.
const ATTEMPT_INTERVAL: Duration = Duration::SECOND;

/// Retention of webhooks. The provider repeats one for three days.
const EVENT_RETENTION: Duration = Duration::days(30);

/// A row of `subscription`.
struct Row {
    org_id: OrgId,
    customer_id: String,
    provider_id: Option<String>,
    item_id: Option<String>,
    status: Option<Stored<ProviderStatus>>,
    seat_policy: SeatPolicy,
    seats_paid: Option<i64>,
    period_start: Option<OffsetDateTime>,
    period_end: Option<OffsetDateTime>,
    trial_end: Option<OffsetDateTime>,
    trial_used: bool,
    cancel_at_period_end: bool,
    scheduled_plan: Option<Stored<Plan>>,
    past_due_since: Option<OffsetDateTime>,
    revision: i64,
    failures: i32,
}

impl From<Row> for SubscriptionRecord {
    fn from(row: Row) -> Self {
        Self {
            org_id: row.org_id,
            customer_id: row.customer_id,
            provider_id: row.provider_id,
            item_id: row.item_id,
            status: row.status.map(|it| it.0),
            seat_policy: row.seat_policy,
            seats_paid: row.seats_paid,
            period_start: row.period_start,
            period_end: row.period_end,
            trial_end: row.trial_end,
            trial_used: row.trial_used,
            cancel_at_period_end: row.cancel_at_period_end,
            scheduled_plan: row.scheduled_plan.map(|it| it.0),
            past_due_since: row.past_due_since,
            revision: row.revision,
            failures: row.failures,
        }
    }
}

/// Returns the subscription of an organization.
pub(crate) async fn find(db: &Db, org_id: OrgId) -> Result<Option<SubscriptionRecord>> {
    let row = query_as!(
        Row,
        "select org_id, customer_id, provider_id, item_id, status, seat_policy, seats_paid, period_start,
                period_end, trial_end, trial_used, cancel_at_period_end, scheduled_plan, past_due_since,
                revision, failures
         from subscription where org_id = $1",
        org_id.0
    );
    Ok(row.fetch_optional(db.pool()).await?.map(Into::into))
}

/// Stores the account of an organization at the provider. One that exists is kept.
pub(crate) async fn insert(tx: &mut Tx, record: &SubscriptionRecord) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into subscription (org_id, customer_id, seat_policy, revision, synced_at, next_attempt_at)
         values ($1, $2, $3, $4, $5, $5) on conflict (org_id) do nothing",
        record.org_id as _,
        record.customer_id,
        Stored(record.seat_policy) as _,
        record.revision,
        now,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Keeps the background job away from a subscription until a time, for a call of the Owner. Increments the
/// revision, so that a state that the job has read before is not stored. Returns the subscription.
pub(crate) async fn lease(
    tx: &mut Tx,
    org_id: OrgId,
    until: OffsetDateTime,
) -> Result<Option<SubscriptionRecord>> {
    let row = query_as!(
        Row,
        "update subscription set revision = revision + 1, next_attempt_at = $2 where org_id = $1
         returning org_id, customer_id, provider_id, item_id, status, seat_policy, seats_paid, period_start,
                   period_end, trial_end, trial_used, cancel_at_period_end, scheduled_plan, past_due_since,
                   revision, failures",
        org_id.0,
        until
    );
    Ok(row.fetch_optional(tx.conn()).await?.map(Into::into))
}

/// Stores a synchronized subscription over the revision before. Returns false if it has changed since it was
/// read, so that an older state of the provider does not replace a newer one.
pub(crate) async fn update(tx: &mut Tx, record: &SubscriptionRecord) -> Result<bool> {
    let now = tx.now;
    let updated = query!(
        "update subscription set provider_id = $3, item_id = $4, status = $5, seat_policy = $6,
                seats_paid = $7, period_start = $8, period_end = $9, trial_end = $10, trial_used = $11,
                cancel_at_period_end = $12, scheduled_plan = $13, past_due_since = $14, revision = $2,
                failures = 0, synced_at = $15, next_attempt_at = $16
         where org_id = $1 and revision = $2::bigint - 1",
        record.org_id as _,
        record.revision,
        record.provider_id,
        record.item_id,
        record.status.map(Stored) as _,
        Stored(record.seat_policy) as _,
        record.seats_paid,
        record.period_start,
        record.period_end,
        record.trial_end,
        record.trial_used,
        record.cancel_at_period_end,
        record.scheduled_plan.map(Stored) as _,
        record.past_due_since,
        now,
        now + ATTEMPT_INTERVAL,
    );
    Ok(updated.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Returns organizations for whose subscription the provider is to be called now, at most 20.
pub(crate) async fn due(db: &Db, grace: Duration) -> Result<Vec<OrgId>> {
    let now = db.now();
    // Subscriptions of all organizations (no org_id).
    let ids = query_scalar!(
        r#"select organization.id as "id!: OrgId"
           from subscription join organization on organization.id = subscription.org_id
           where next_attempt_at <= $1 and (
               synced_at <= $2
               or exists (select from billing_event
                          where billing_event.org_id = organization.id and processed_at is null)
               or (provider_id is not null and (
                   deleted_at is not null
                   or (past_due_since <= $3 and organization.subscription <> 'blocked')
                   or (scheduled_plan is not null and period_end <= $4)
                   or (seat_policy = 'buy' and seats_paid <> member_count)
               ))
           )
           order by next_attempt_at limit 20"#,
        now,
        now - RECONCILIATION_INTERVAL,
        now - grace,
        now + Duration::HOUR,
    );
    Ok(ids.fetch_all(db.pool()).await?)
}

/// Delays the next call to the provider after a failure.
pub(crate) async fn delay(tx: &mut Tx, org_id: OrgId, until: OffsetDateTime) -> Result<()> {
    query!(
        "update subscription set failures = failures + 1, next_attempt_at = $2 where org_id = $1",
        org_id.0,
        until
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns the organization with an account at the provider.
pub(crate) async fn find_customer(db: &Db, customer_id: &str) -> Result<Option<OrgId>> {
    // By the id of the account (no org_id).
    let id = query_scalar!(
        r#"select org_id as "org_id: OrgId" from subscription where customer_id = $1"#,
        customer_id
    );
    Ok(id.fetch_optional(db.pool()).await?)
}

/// Stores a webhook. Returns false if it was stored before.
pub(crate) async fn insert_event(tx: &mut Tx, org_id: OrgId, event: &Event) -> Result<bool> {
    let now = tx.now;
    let inserted = query!(
        "insert into billing_event (id, org_id, kind, object_id, received_at) values ($1, $2, $3, $4, $5)
         on conflict (id) do nothing",
        event.id,
        org_id.0,
        event.kind,
        event.object_id,
        now
    );
    Ok(inserted.execute(tx.conn()).await?.rows_affected() == 1)
}

/// A webhook that has not been processed.
pub(crate) struct PendingEvent {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) object_id: String,
}

/// Returns the webhooks about an organization that have not been processed, oldest first, at most 100.
pub(crate) async fn pending_events(db: &Db, org_id: OrgId) -> Result<Vec<PendingEvent>> {
    let events = query_as!(
        PendingEvent,
        "select id, kind, object_id from billing_event where org_id = $1 and processed_at is null
         order by received_at, id limit 100",
        org_id.0
    );
    Ok(events.fetch_all(db.pool()).await?)
}

/// Marks a webhook as processed. Returns false if another replica has done it.
pub(crate) async fn finish_event(tx: &mut Tx, org_id: OrgId, id: &str) -> Result<bool> {
    let now = tx.now;
    let finished = query!(
        "update billing_event set processed_at = $3
         where org_id = $1 and id = $2 and processed_at is null",
        org_id.0,
        id,
        now
    );
    Ok(finished.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Deletes old webhooks.
pub(crate) async fn delete_old_events(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - EVENT_RETENTION;
    // Of all organizations (no org_id).
    let deleted = query!(
        "delete from billing_event where id in (
             select id from billing_event where received_at < $1 and processed_at is not null
             order by received_at limit $2)",
        before,
        BATCH
    );
    Ok(deleted.execute(tx.conn()).await?.rows_affected())
}
