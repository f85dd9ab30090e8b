//! Delivery inside one process: each subscriber reads each outbox from a position of its own.

use std::collections::BTreeMap;

use chassis::{Db, Tx};
use futures::future::BoxFuture;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use worker::{Progress, Schedule};

use crate::{
    BATCH, LOCAL_IDLE,
    cursor::{self, Cursor, ReaderPositions},
    subscriber::{OUT_OF_ORDER, Subscriber},
};

/// Name of the positions in the subscriber's database.
const READER: &str = "local";

/// Number of events without a handler after which the position is saved.
const SKIPPED_MAX: usize = 1_000;

pub(super) fn tasks(
    outboxes: &[Db],
    subscribers: &[Subscriber],
    positions: &BTreeMap<&'static str, ReaderPositions>,
    stop: &CancellationToken,
) -> Vec<BoxFuture<'static, ()>> {
    let mut tasks: Vec<BoxFuture<'static, ()>> = vec![];
    for subscriber in subscribers {
        tasks.push(Box::pin(subscriber.clone().retry_deferred(stop.clone())));
        for outbox in outboxes {
            let name = format!("{} reads the outbox of {}", subscriber.db.name(), outbox.name());
            let positions = positions[outbox.name()].clone();
            positions.set(&name, Cursor::default());
            let reader = LocalReader {
                name: name.clone(),
                outbox: outbox.clone(),
                subscriber: subscriber.clone(),
                positions,
                state: Mutex::default(),
            };
            let stop = stop.clone();
            let outbox = outbox.clone();
            tasks.push(Box::pin(async move {
                let schedule = Schedule::woken_by(&outbox, LOCAL_IDLE);
                worker::run(name, schedule, stop, || reader.step()).await;
            }));
        }
    }
    tasks
}

/// Reads one outbox for one subscriber.
struct LocalReader {
    name: String,
    outbox: Db,
    subscriber: Subscriber,
    positions: ReaderPositions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Position after the last batch; `None` before the first step.
    cursor: Option<Cursor>,
    /// Number of events that were read since the position was saved.
    unsaved: usize,
}

impl LocalReader {
    /// Reads a batch and delivers it.
    async fn step(&self) -> anyhow::Result<Progress> {
        if self.subscriber.is_paused().await? {
            return Ok(Progress::Idle);
        }
        let mut state = self.state.lock().await;
        let from = match state.cursor {
            Some(cursor) => cursor,
            None => self.load().await?,
        };
        let (batch, cursor) = cursor::read(&self.outbox, from, BATCH).await?;
        if batch.is_empty() {
            state.cursor = Some(from);
            return Ok(Progress::Idle);
        }
        let outcome = self.subscriber.deliver(&batch).await;
        if let Some(error) = outcome.failure {
            // The batch is read again; the inbox skips the events that were handled.
            let event = &batch[outcome.completed];
            let context = format!("{} {}", event.event_type, event.id);
            return Err(anyhow::Error::from(error).context(context));
        }
        for event in batch.iter().filter(|it| outcome.out_of_order.contains(&it.id)) {
            let gap = anyhow::anyhow!(OUT_OF_ORDER).into();
            self.subscriber.defer(event, Some(&gap)).await?;
        }
        state.cursor = Some(cursor);
        self.positions.set(&self.name, cursor);
        state.unsaved += batch.len();
        let has_handled = batch.iter().any(|it| self.subscriber.handles(&it.event_type));
        if has_handled || state.unsaved >= SKIPPED_MAX {
            let source = self.outbox.name();
            let save = async |tx: &mut Tx| cursor.save(tx.conn(), READER, source).await;
            self.subscriber.db.write_relaxed(save).await?;
            state.unsaved = 0;
        }
        Ok(Progress::Busy)
    }

    async fn load(&self) -> anyhow::Result<Cursor> {
        let mut conn = self.subscriber.db.pool().acquire().await?;
        Ok(Cursor::load(&mut conn, READER, self.outbox.name()).await?)
    }
}
