//! Delivery of events from the outboxes to subscribers: through NATS JetStream, or inside one process. Events
//! are delivered at least once; the inbox of a subscriber makes each take effect once.

pub mod cluster;
mod cursor;
pub mod dead_letter;
mod delivery;
mod examine;
#[cfg(test)]
mod fuzz;
mod jetstream;
mod local;
mod nats_url;
pub mod pause;
mod queues;
mod reconciler;
mod relay;
pub mod replica_messages;
mod subscriber;

use std::{collections::BTreeMap, time::Duration};

use chassis::{Db, channel::ServiceChannel};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use worker::queue::Queue;

use self::{
    cursor::ReaderPositions,
    reconciler::{OutboxReconciler, Patience},
};
pub use delivery::Delivery;
pub use jetstream::JetStream;
use replica_messages::ReplicaMessages;
pub use subscriber::{EventSink, NotReady, Reaction, Subscriber, Unrecorded};

/// Largest number of events that are read, published or recorded at a time.
const BATCH: i64 = 500;
/// The same number as a length.
const BATCH_LEN: usize = 500;

/// Interval at which a consumer pulls from JetStream, which sends no wake-ups.
const POLL: Duration = worker::POLL_INTERVAL;

/// Longest pause between two reads of an outbox without a wake-up: commits of other replicas do not wake.
const IDLE: Duration = Duration::from_secs(1);

/// The same if no other process changes the databases.
const LOCAL_IDLE: Duration = Duration::from_secs(10);

/// Transport of events.
pub enum Bus {
    /// Inside one process: each subscriber reads every outbox itself.
    Local,
    /// Between processes: a relay publishes each outbox, subscribers pull from durable consumers.
    JetStream(Box<JetStream>),
}

/// The delivery of events in a process.
pub struct Tasks {
    /// Background tasks.
    pub futures: Vec<BoxFuture<'static, ()>>,
    /// Queues of events, of each outbox.
    pub queues: Vec<Queue>,
}

impl Bus {
    /// Starts requests between the replicas of a service.
    pub fn start_messages(&self, messages: &ReplicaMessages) {
        messages.start(match self {
            Self::Local => None,
            Self::JetStream(it) => Some(it.context.client()),
        });
    }

    /// Returns the background tasks that deliver events from these outboxes to these subscribers, and
    /// reconcile each outbox with the audit log, until `stop`. An event that the audit log lacks for longer
    /// than `direct_after` is sent to it directly.
    pub fn tasks(
        self,
        outboxes: Vec<(Db, ServiceChannel)>,
        subscribers: Vec<Subscriber>,
        direct_after: Duration,
        stop: &CancellationToken,
    ) -> Tasks {
        let idle = match &self {
            Self::Local => LOCAL_IDLE,
            Self::JetStream(_) => IDLE,
        };
        let mut positions = BTreeMap::new();
        let mut reconcilers = vec![];
        let mut queues = vec![];
        for (outbox, audit) in &outboxes {
            let of_outbox = positions.entry(outbox.name()).or_insert_with(ReaderPositions::default);
            queues.extend(queues::of(outbox, of_outbox.clone()));
            reconcilers.push(OutboxReconciler::new(
                outbox.clone(),
                audit.clone(),
                of_outbox.clone(),
                Patience { direct_after, idle },
            ));
        }
        let outboxes: Vec<Db> = outboxes.into_iter().map(|it| it.0).collect();
        let mut futures = match self {
            Self::Local => local::tasks(&outboxes, &subscribers, &positions, stop),
            Self::JetStream(it) => it.tasks(outboxes, subscribers, &positions, stop),
        };
        for reconciler in reconcilers {
            futures.push(Box::pin(reconciler.run(stop.clone())));
        }
        Tasks { futures, queues }
    }
}
