//! Events inside one process: each subscriber has its own position in each outbox.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{BATCH, IDLE, follow, settle::Followers};
use crate::{
    db::{Db, Tx},
    outbox::{self, Cursor},
    react::Subscriber,
};

const READER: &str = "local";

/// Events that nobody wanted are passed over; so many of them, and the position is written down.
const PASSED_MAX: usize = 1_000;

pub(super) fn tasks(
    outboxes: &[Db],
    subscribers: &[Subscriber],
    followers: &BTreeMap<&'static str, Followers>,
    stop: &CancellationToken,
) -> Vec<BoxFuture<'static, ()>> {
    let mut tasks: Vec<BoxFuture<'static, ()>> = vec![];
    for subscriber in subscribers {
        tasks.push(Box::pin(subscriber.clone().retry_deferred(stop.clone())));
        for outbox in outboxes {
            let name = format!("{} follows {}", subscriber.db.name(), outbox.name());
            let followers = followers[outbox.name()].clone();
            followers.at(&name, Cursor::default());
            let reader = Reader {
                name: name.clone(),
                outbox: outbox.clone(),
                to: subscriber.clone(),
                followers,
                state: Mutex::default(),
            };
            let (stop, outbox) = (stop.clone(), outbox.clone());
            tasks.push(Box::pin(async move {
                follow(name, stop, (outbox, IDLE), || reader.step()).await;
            }));
        }
    }
    tasks
}

/// One subscriber at one outbox.
struct Reader {
    name: String,
    outbox: Db,
    to: Subscriber,
    followers: Followers,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where it stands; unknown until the first step.
    cursor: Option<Cursor>,
    /// Events that were passed over since the position was written down.
    passed: usize,
}

impl Reader {
    /// Reads a batch and delivers it. Answers whether there may be more.
    async fn step(&self) -> anyhow::Result<bool> {
        let mut state = self.state.lock().await;
        let from = match state.cursor {
            Some(cursor) => cursor,
            None => self.load().await?,
        };
        let (batch, cursor) = outbox::read(&self.outbox, from, BATCH).await?;
        if batch.is_empty() {
            state.cursor = Some(from);
            return Ok(false);
        }
        let delivered = self.to.deliver(&batch).await;
        if let Some(error) = delivered.failure {
            // The inbox keeps the events that were dealt with from acting again.
            let event = &batch[delivered.done];
            return Err(anyhow::Error::from(error).context(format!("{} {}", event.name, event.id)));
        }
        for event in batch.iter().filter(|it| delivered.held.contains(&it.id)) {
            let missing = anyhow::anyhow!("an event before it is missing in the log").into();
            self.to.set_aside(event, Some(&missing)).await?;
        }
        state.cursor = Some(cursor);
        self.followers.at(&self.name, cursor);
        state.passed += batch.len();
        if state.passed >= PASSED_MAX || batch.iter().any(|it| self.to.takes(&it.name)) {
            let source = self.outbox.name();
            let save = async |tx: &mut Tx| outbox::save(tx.conn(), READER, source, cursor).await;
            self.to.db.jot(save).await?;
            state.passed = 0;
        }
        Ok(true)
    }

    async fn load(&self) -> anyhow::Result<Cursor> {
        let mut conn = self.to.db.pool().acquire().await?;
        Ok(outbox::load(&mut conn, READER, self.outbox.name()).await?)
    }
}
