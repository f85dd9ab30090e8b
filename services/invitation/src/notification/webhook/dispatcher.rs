//! Dispatcher of due deliveries. It leases whole webhooks, so that only one process delivers to each. Every
//! webhook has two slots of its own and a back-off after failures, so that a slow or dead receiver delays no
//! other.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use chassis::{
    Db, Result, Tx, key,
    trace::{self, Kind},
};
use time::{Duration, OffsetDateTime};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;
use worker::{Progress, Schedule};

use super::{
    Webhook,
    delivery::{self, Attempt, DueDelivery},
    sender::{Connection, FailureKind, Response, Sender, WebhookRequest},
    signature::Signer,
    store,
};

/// Largest number of webhooks that one process leases at a time.
const LEASES_MAX: usize = 128;

/// Number of concurrent requests to one webhook.
const SLOTS: usize = 2;

/// Largest number of deliveries that are read at a time.
const BATCH: i64 = 20;

/// Time for which one webhook is served before it is released.
const SERVE_TIME: std::time::Duration = std::time::Duration::from_secs(20);

/// Duration of a lease: longer than the serve time and its last request. Until it ends, nobody serves the
/// webhooks of a process that was killed.
const LEASE: Duration = Duration::minutes(1);

/// Number of failed attempts in a row after which a webhook backs off.
const BACKOFF_AFTER: i32 = 3;

/// First back-off; it doubles with each further failure.
const BACKOFF_MIN: Duration = Duration::seconds(5);

/// Longest back-off.
const BACKOFF_MAX: Duration = Duration::minutes(5);

/// Longest pause between two searches for due webhooks: commits of other processes do not end it.
const POLL_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// Dispatcher of due deliveries.
pub(crate) struct Dispatcher {
    pub(crate) db: Db,
    pub(crate) sender: Arc<Sender>,
    /// Key under which the signing secrets are encrypted.
    pub(crate) secret_keys: key::DerivedKeys,
}

impl Dispatcher {
    /// Runs until the process ends; requests in flight are completed.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let schedule = Schedule::woken_by(&self.db, POLL_INTERVAL);
        let dispatcher = Arc::new(self);
        let tasks = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(LEASES_MAX));
        let step = || async {
            let leased = dispatcher.lease(permits.available_permits()).await?;
            let progress = Progress::busy_if(!leased.is_empty());
            for webhook in leased {
                let permit = permits.clone().acquire_owned().await?;
                let dispatcher = dispatcher.clone();
                let stop = stop.clone();
                tasks.spawn(async move {
                    dispatcher.serve(webhook, &stop).await;
                    drop(permit);
                });
            }
            Ok(progress)
        };
        worker::run("webhook dispatcher".to_owned(), schedule, stop.clone(), step).await;
        tasks.close();
        tasks.wait().await;
        Ok(())
    }

    /// Leases at most `max` webhooks with due deliveries.
    async fn lease(&self, max: usize) -> Result<Vec<Webhook>> {
        let limit = i64::try_from(max).unwrap_or(i64::MAX);
        if limit == 0 {
            return Ok(vec![]);
        }
        let lease = async |tx: &mut Tx| store::lease(tx, limit, tx.now + LEASE).await;
        self.db.write_as_system("webhooks", lease).await
    }

    /// Delivers to a leased webhook for the serve time, and releases it.
    async fn serve(&self, webhook: Webhook, stop: &CancellationToken) {
        let webhook_id = webhook.id;
        let health = Mutex::new(Health {
            webhook,
            backoff_until: None,
            disable_reason: None,
            is_withdrawn: false,
        });
        if let Err(error) = self.deliver(&health, stop).await {
            let error = chassis::error::causes(&error);
            tracing::warn!(%webhook_id, error, "deliveries cannot be read or stored; this is retried");
        }
        let health = health.into_inner().unwrap_or_else(PoisonError::into_inner);
        let released = worker::record("webhook", || self.release(&health)).await;
        if let Err(error) = released {
            let error = chassis::error::causes(&error);
            tracing::warn!(%webhook_id, error, "a webhook is released at the end of its lease only");
        }
    }

    /// Stores the health of a webhook and ends its lease; disables it if its receiver failed for too long.
    async fn release(&self, health: &Health) -> Result<()> {
        let Health { webhook, backoff_until, disable_reason, .. } = health;
        let release = async |tx: &mut Tx| {
            store::release(tx, webhook, *backoff_until).await?;
            // The present state: a manager may have changed the webhook during the lease.
            if let Some(reason) = disable_reason
                && let Some(present) = store::lock_leased(tx, webhook).await?
            {
                let disabled = store::update(tx, present.auto_disable(reason)).await?;
                delivery::store::fail_pending(tx, &disabled).await?;
            }
            Ok(())
        };
        self.db.write_as_system("webhooks", release).await
    }

    async fn deliver(&self, health: &Mutex<Health>, stop: &CancellationToken) -> Result<()> {
        let started = Instant::now();
        let webhook = lock(health).webhook.clone();
        let mut connections: [Connection; SLOTS] = std::array::from_fn(|_| Connection::default());
        let may_continue =
            || started.elapsed() < SERVE_TIME && !stop.is_cancelled() && !lock(health).is_stopped();
        while may_continue() {
            // A receiver that failed gets a single request first.
            let limit = if lock(health).webhook.failure_count > 0 { 1 } else { BATCH };
            let due = delivery::store::due(&self.db, &webhook, limit).await?;
            if due.is_empty() {
                break;
            }
            let due = Mutex::new(due.into_iter());
            let slots = connections.iter_mut().map(async |connection| {
                while may_continue() {
                    let Some(next) = lock(&due).next() else { break };
                    let span = trace::continued(Kind::Client, "send webhook", &next.traceparent);
                    trace::set(&span, "http.request.method", "POST");
                    let attempt = self.attempt(&webhook, connection, &next, health);
                    attempt.instrument(span).await?;
                }
                Ok::<_, chassis::Error>(())
            });
            futures::future::try_join_all(slots).await?;
        }
        Ok(())
    }

    /// Makes one attempt of one delivery, with the present URL and secrets: a manager can change, disable or
    /// delete the webhook during the lease.
    async fn attempt(
        &self,
        leased: &Webhook,
        connection: &mut Connection,
        due: &DueDelivery,
        health: &Mutex<Health>,
    ) -> Result<()> {
        let Some(webhook) = store::enabled(&self.db, leased).await? else {
            lock(health).is_withdrawn = true;
            return Ok(());
        };
        let signer = Signer::new(&self.secret_keys, &webhook, self.db.now());
        let timestamp = self.db.now().unix_timestamp();
        let request = WebhookRequest { id: due.event_id, body: &due.body, timestamp };
        let response = self.sender.send(&webhook.url, connection, &signer, &request).await;
        let now = self.db.now();
        lock(health).record(&response, now);
        let attempt = Attempt::of(webhook.org_id, due, &response, now);
        let record = async |tx: &mut Tx| delivery::store::record(tx, &attempt).await;
        self.db.write_as_system("webhooks", record).await
    }
}

/// Health of a receiver during a lease.
struct Health {
    webhook: Webhook,
    /// End of the back-off, after several failures in a row.
    backoff_until: Option<OffsetDateTime>,
    /// Reason for disabling the webhook.
    disable_reason: Option<&'static str>,
    /// True if a manager disabled or deleted the webhook during the lease.
    is_withdrawn: bool,
}

impl Health {
    /// True if no further attempt is made during this lease.
    fn is_stopped(&self) -> bool {
        self.backoff_until.is_some() || self.disable_reason.is_some() || self.is_withdrawn
    }

    /// Records the response to an attempt.
    fn record(&mut self, response: &Response, now: OffsetDateTime) {
        let webhook = &mut self.webhook;
        let Some(failure) = &response.failure else {
            webhook.failure_count = 0;
            webhook.failing_since = None;
            return;
        };
        webhook.failure_count = webhook.failure_count.saturating_add(1);
        webhook.failing_since = webhook.failing_since.or(Some(now));
        self.disable_reason = webhook.disable_reason(failure.kind, now);
        let is_transient = failure.kind == FailureKind::Transient;
        if is_transient && webhook.failure_count >= BACKOFF_AFTER {
            let doublings = (webhook.failure_count - BACKOFF_AFTER).min(10);
            let factor: i32 = 1 << doublings;
            self.backoff_until = Some(now + (BACKOFF_MIN * factor).min(BACKOFF_MAX));
        }
        // The receiver requests a pause for all deliveries.
        let requested_at = delivery::requested_pause_end(response, now).filter(|it| *it > now);
        self.backoff_until = self.backoff_until.max(requested_at);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
