//! How events get from an outbox to those who follow it: through NATS JetStream, or inside the process.

mod jetstream;
mod local;
mod relay;
mod settle;

use std::{collections::BTreeMap, future::Future, time::Duration};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use self::settle::{Followers, Settler};
use crate::{db::Db, link::Link, react::Subscriber};

pub use jetstream::JetStream;

/// How many events are read, published or recorded at a time.
const BATCH: i64 = 500;
/// The same, where a length is asked for.
const BATCH_LEN: usize = 500;

/// How soon a reader looks again after something happened: what was written may have been held back by a
/// transaction that was still running.
const POLL: Duration = Duration::from_millis(100);

/// How long a reader that found something lets more come together: reading one by one would cost the
/// writers more than the wait costs anybody.
const GATHER: Duration = Duration::from_millis(10);

/// How seldom a reader looks when nothing wakes it and nothing comes.
pub(crate) const IDLE: Duration = Duration::from_secs(1);

/// The carrier of events. The only run-time variation in the house.
pub enum Bus {
    /// Each subscriber follows every outbox of this process itself.
    Local,
    /// A relay publishes each outbox; subscribers pull from durable consumers.
    JetStream(Box<JetStream>),
}

impl Bus {
    /// The tasks that carry events between these outboxes and subscribers, and settle each outbox with the
    /// log, until `stop`. An event that is missing there for longer than `patience` is handed over directly.
    pub(crate) fn tasks(
        self,
        outboxes: Vec<(Db, Link)>,
        subscribers: Vec<Subscriber>,
        patience: Duration,
        stop: &CancellationToken,
    ) -> Vec<BoxFuture<'static, ()>> {
        let (mut followers, mut settlers) = (BTreeMap::new(), vec![]);
        for (outbox, audit) in &outboxes {
            let of_this = followers.entry(outbox.name()).or_insert_with(Followers::default);
            settlers.push(Settler::new(outbox.clone(), audit.clone(), of_this.clone(), patience));
        }
        let outboxes: Vec<Db> = outboxes.into_iter().map(|it| it.0).collect();
        let mut tasks = match self {
            Self::Local => local::tasks(&outboxes, &subscribers, &followers, stop),
            Self::JetStream(it) => it.tasks(outboxes, subscribers, &followers, stop),
        };
        for settler in settlers {
            tasks.push(Box::pin(settler.run(stop.clone())));
        }
        tasks
    }
}

/// Runs `step` until `stop`: again soon while there is work, else when `wake` has committed something
/// or after a while, which grows up to `idle`. A failure is logged and retried with a growing pause.
pub(crate) async fn follow<F>(
    name: String,
    stop: CancellationToken,
    (wake, idle): (Db, Duration),
    mut step: impl FnMut() -> F,
) where
    F: Future<Output = anyhow::Result<bool>>,
{
    let (mut failures, mut quiet) = (0_u32, 0_u32);
    while !stop.is_cancelled() {
        let woken = wake.committed().notified();
        let pause = match step().await {
            Ok(true) => {
                (failures, quiet) = (0, 0);
                tokio::time::sleep(GATHER).await;
                continue;
            }
            Ok(false) => {
                (failures, quiet) = (0, quiet + 1);
                POLL.saturating_mul(1 << quiet.min(6)).min(idle)
            }
            Err(error) => {
                tracing::warn!(name, failures, error = format!("{error:#}"), "events wait");
                failures += 1;
                back_off(failures)
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = woken, if failures == 0 => quiet = 0,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// 100 ms, 200 ms, … up to 5 s.
pub(crate) fn back_off(failures: u32) -> Duration {
    POLL.saturating_mul(1 << failures.min(6)).min(Duration::from_secs(5))
}
