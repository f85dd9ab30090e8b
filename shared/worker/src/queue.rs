//! Queues: work that is stored in a database until a job has done it. Their lengths and ages are metrics, and
//! the AdminService lists them.

use std::{future::Future, sync::Arc, time::Duration};

use chassis::{Db, Result};
use futures::future::BoxFuture;
use opentelemetry::{KeyValue, global};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::{Progress, Schedule};

/// Largest number of waiting entries that are counted.
pub const COUNT_MAX: i64 = 10_000;

/// Interval of the measurements.
const INTERVAL: Duration = Duration::from_secs(10);

/// State of a queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueState {
    /// Number of waiting entries, counted up to [`COUNT_MAX`].
    pub waiting: i64,
    /// Time at which the oldest of them was queued.
    pub oldest_at: Option<OffsetDateTime>,
}

/// A queue in the database of a service.
#[derive(Clone)]
pub struct Queue {
    /// Name, which is unique in its database.
    pub name: &'static str,
    /// The database.
    pub db: Db,
    read: Arc<dyn Fn(Db) -> BoxFuture<'static, Result<QueueState>> + Send + Sync>,
}

impl Queue {
    /// Creates a queue whose state `read` returns.
    pub fn new<F>(
        name: &'static str,
        db: &Db,
        read: impl Fn(Db) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<QueueState>> + Send + 'static,
    {
        Self { name, db: db.clone(), read: Arc::new(move |db| Box::pin(read(db))) }
    }

    /// Reads the state.
    pub async fn state(&self) -> Result<QueueState> {
        (self.read)(self.db.clone()).await
    }

    /// Age of the oldest entry in a state.
    pub fn oldest_age(&self, state: QueueState) -> Option<time::Duration> {
        state.oldest_at.map(|it| (self.db.now() - it).max(time::Duration::ZERO))
    }
}

/// Measures the queues until `stop`: the gauges `tenantry.queue.waiting` (entries) and
/// `tenantry.queue.oldest_age` (seconds), with the attributes `service` and `queue`.
pub async fn measure(queues: Vec<Queue>, stop: CancellationToken) {
    let meter = global::meter("tenantry");
    let waiting = meter.i64_gauge("tenantry.queue.waiting").build();
    let oldest_age = meter.f64_gauge("tenantry.queue.oldest_age").with_unit("s").build();
    let step = || async {
        // A queue that cannot be read does not keep the others from being measured.
        let mut measured = Ok(Progress::Idle);
        for queue in &queues {
            let state = match queue.state().await {
                Ok(state) => state,
                Err(error) => {
                    measured = Err(error.into());
                    continue;
                }
            };
            let labels =
                [KeyValue::new("service", queue.db.name()), KeyValue::new("queue", queue.name)];
            waiting.record(state.waiting, &labels);
            let age = queue.oldest_age(state).unwrap_or_default();
            oldest_age.record(age.as_seconds_f64(), &labels);
        }
        measured
    };
    crate::run("queue metrics".to_owned(), Schedule::every(INTERVAL), stop, step).await;
}
