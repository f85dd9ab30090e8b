//! Delivers what is due. A webhook is leased as a whole, so nobody else delivers to it meanwhile; each
//! has two lanes of its own, and rests after failures, so a receiver that is slow or dead delays no
//! other.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use chassis::{Db, OrgId, Result, Tx, key};
use time::{Duration, OffsetDateTime};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    Failure, Signer, State, Webhook, next_try,
    sender::{Answer, Line, Parcel, Sender},
    store::{self, Due},
};

/// Webhooks at a time, in one process.
const LEASES: usize = 128;
/// Deliveries to one receiver at a time.
const LANES: usize = 2;
/// Deliveries that are read at a time.
const BATCH: i64 = 20;
/// How long one webhook is served before it is given back.
const SLICE: std::time::Duration = std::time::Duration::from_secs(20);
/// How long a lease holds: longer than a slice and its last delivery. So long the webhooks of a process that
/// was killed wait.
const LEASE: Duration = Duration::minutes(1);
/// After so many failures in a row a receiver rests.
const FAILURES_MAX: i32 = 3;
/// How long: twice as long with each failure more, up to the longest.
const REST: Duration = Duration::seconds(5);
const REST_MAX: Duration = Duration::minutes(5);
/// How often the table is looked at when nothing wakes the dispatcher.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
/// How long it waits after it was woken.
const GATHER: std::time::Duration = std::time::Duration::from_millis(20);

/// Delivers what is due.
pub(crate) struct Dispatcher {
    pub(crate) db: Db,
    pub(crate) sender: Arc<Sender>,
    pub(crate) seal: key::Secret,
}

impl Dispatcher {
    /// Runs until the process ends; deliveries in flight end.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let (me, tasks) = (Arc::new(self), TaskTracker::new());
        let free = Arc::new(Semaphore::new(LEASES));
        while !stop.is_cancelled() {
            let woken = me.db.changed();
            let leased = match me.lease(free.available_permits()).await {
                Ok(leased) => leased,
                Err(error) => {
                    tracing::warn!(%error, "deliveries of webhooks wait");
                    vec![]
                }
            };
            let more = !leased.is_empty();
            for webhook in leased {
                let Ok(permit) = free.clone().acquire_owned().await else { break };
                let (me, stop) = (me.clone(), stop.clone());
                tasks.spawn(async move {
                    me.serve(webhook, &stop).await;
                    drop(permit);
                });
            }
            if !more {
                tokio::select! {
                    () = stop.cancelled() => {}
                    // What was committed may be one of many; let more of them come together.
                    () = woken => tokio::time::sleep(GATHER).await,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    }

    async fn lease(&self, free: usize) -> Result<Vec<Webhook>> {
        let limit = i64::try_from(free).unwrap_or_default();
        if limit == 0 {
            return Ok(vec![]);
        }
        let lease = async |tx: &mut Tx| store::lease(tx, limit, tx.now + LEASE).await;
        self.db.write_as_system("webhooks", lease).await
    }

    /// Delivers to one webhook for a while, and gives it back.
    async fn serve(&self, webhook: Webhook, stop: &CancellationToken) {
        let id = webhook.id;
        let health = Mutex::new(Health { webhook, rest: None, hopeless: None });
        if let Err(error) = self.deliver(&health, stop).await {
            tracing::warn!(webhook = %id, %error, "deliveries wait");
        }
        let Health { webhook, rest, hopeless } =
            health.into_inner().unwrap_or_else(PoisonError::into_inner);
        let give_back = async |tx: &mut Tx| {
            store::release(tx, &webhook, rest).await?;
            // As it is now: its manager may have changed it while it was held.
            if let Some(reason) = hopeless
                && let Some(now) = store::lock_held(tx, &webhook).await?
            {
                let webhook = store::update(tx, now.disable(reason)).await?;
                store::give_up(tx, &webhook).await?;
            }
            Ok(())
        };
        if let Err(error) = self.db.write_as_system("webhooks", give_back).await {
            tracing::warn!(webhook = %id, %error, "a webhook waits until its lease ends");
        }
    }

    async fn deliver(&self, health: &Mutex<Health>, stop: &CancellationToken) -> Result<()> {
        let started = Instant::now();
        let it = lock(health).webhook.clone();
        let signer = Signer::new(&self.seal, &it, self.db.now());
        let mut lines: [Line; LANES] = std::array::from_fn(|_| Line::default());
        let goes_on =
            || started.elapsed() < SLICE && !stop.is_cancelled() && !lock(health).is_over();
        while goes_on() {
            // A receiver that failed is tried with one, before it gets more.
            let limit = if lock(health).webhook.failure_count > 0 { 1 } else { BATCH };
            let due = Mutex::new(store::due(&self.db, &it, limit).await?.into_iter());
            if lock(&due).len() == 0 {
                break;
            }
            let lanes = lines.iter_mut().map(async |line| {
                while goes_on() {
                    let Some(one) = lock(&due).next() else { break };
                    self.one(&it, line, &signer, &one, health).await?;
                }
                Ok::<_, chassis::Error>(())
            });
            futures::future::try_join_all(lanes).await?;
        }
        Ok(())
    }

    /// One try of one delivery.
    async fn one(
        &self,
        it: &Webhook,
        line: &mut Line,
        signer: &Signer,
        due: &Due,
        health: &Mutex<Health>,
    ) -> Result<()> {
        let timestamp = self.db.now().unix_timestamp();
        let parcel = Parcel { id: due.event_id, body: &due.body, timestamp };
        let answer = self.sender.send(&it.url, line, signer, &parcel).await;
        let now = self.db.now();
        lock(health).count(&answer, now);
        let (state, next) = match &answer.failure {
            None => (State::Delivered, now),
            Some(_) => match next_try(due.attempts + 1, spread(due.id), now) {
                Some(next) => (State::Pending, next),
                None => (State::Failed, now),
            },
        };
        self.write_down((it.org_id, due.id), (state, next), &answer).await
    }

    async fn write_down(
        &self,
        which: (OrgId, Uuid),
        became: (State, OffsetDateTime),
        answer: &Answer,
    ) -> Result<()> {
        let write = async |tx: &mut Tx| store::tried(tx, which, became, answer).await;
        self.db.write_as_system("webhooks", write).await
    }
}

/// How a receiver does.
struct Health {
    webhook: Webhook,
    /// Until when it rests.
    rest: Option<OffsetDateTime>,
    /// Why it is given up.
    hopeless: Option<&'static str>,
}

impl Health {
    fn is_over(&self) -> bool {
        self.rest.is_some() || self.hopeless.is_some()
    }

    fn count(&mut self, answer: &Answer, now: OffsetDateTime) {
        let it = &mut self.webhook;
        let Some((failure, _)) = &answer.failure else {
            (it.failure_count, it.failing_since) = (0, None);
            return;
        };
        it.failure_count = it.failure_count.saturating_add(1);
        it.failing_since = it.failing_since.or(Some(now));
        self.hopeless = it.hopeless(*failure, now);
        if it.failure_count >= FAILURES_MAX && *failure == Failure::Passing {
            let doubled: i32 = 1 << (it.failure_count - FAILURES_MAX).min(10);
            self.rest = Some(now + (REST * doubled).min(REST_MAX));
        }
    }
}

/// Between 0 and 1, the same for the same delivery.
fn spread(id: Uuid) -> f64 {
    f64::from(id.as_bytes()[15]) / 255.0
}

fn lock<T>(it: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}
