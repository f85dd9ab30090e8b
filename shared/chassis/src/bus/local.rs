//! Events inside one process: each subscriber has its own position in each outbox.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{BATCH, IDLE, follow};
use crate::{
    db::{Db, Tx},
    outbox::{self, Delivery},
    react::{ATTEMPTS_MAX, Subscriber},
};

const READER: &str = "local";

pub(super) fn tasks(
    outboxes: &[Db],
    subscribers: &[Subscriber],
    stop: &CancellationToken,
) -> Vec<BoxFuture<'static, ()>> {
    let mut tasks: Vec<BoxFuture<'static, ()>> = vec![];
    for subscriber in subscribers {
        for outbox in outboxes {
            let reader = Reader {
                outbox: outbox.clone(),
                to: subscriber.clone(),
                attempts: Mutex::default(),
            };
            let name = format!("{} follows {}", subscriber.db.name(), outbox.name());
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
    outbox: Db,
    to: Subscriber,
    /// Failures of the event at the head.
    attempts: Mutex<u32>,
}

impl Reader {
    /// Reads a batch and delivers it. Answers whether there may be more.
    async fn step(&self) -> anyhow::Result<bool> {
        let source = self.outbox.name();
        let mut conn = self.to.db.pool().acquire().await?;
        let from = outbox::load(&mut conn, READER, source).await?;
        drop(conn);
        let (batch, cursor) = outbox::read(&self.outbox, from, BATCH).await?;
        if batch.is_empty() {
            return Ok(false);
        }
        let (done, failure) = self.to.deliver(&batch).await;
        match failure {
            None => {
                *self.attempts() = 0;
                self.remember(source, cursor).await?;
                Ok(true)
            }
            // The inbox keeps the events that were dealt with from acting again.
            Some(error) => self.failed(&batch[done], error).await,
        }
    }

    async fn remember(&self, source: &str, cursor: outbox::Cursor) -> crate::Result<()> {
        let work = async |tx: &mut Tx| outbox::save(tx.conn(), READER, source, cursor).await;
        self.to.db.write_as_system("cursor", work).await
    }

    fn attempts(&self) -> MutexGuard<'_, u32> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn failed(&self, event: &Delivery, error: crate::Error) -> anyhow::Result<bool> {
        let attempts = {
            let mut attempts = self.attempts();
            *attempts += 1;
            *attempts
        };
        if attempts < ATTEMPTS_MAX {
            return Err(anyhow::Error::from(error).context(format!("{} {}", event.name, event.id)));
        }
        self.to.bury(event, &error).await?;
        *self.attempts() = 0;
        Ok(true)
    }
}
