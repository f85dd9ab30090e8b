//! Streams that follow an object: what there is, then what comes, until it is complete or the process ends.
//! The server stack bounds how many there are and checks the rights of their readers.

use std::{collections::VecDeque, future::Future, pin::Pin, time::Duration};

use api::error::Reason;
use futures::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{Db, Result, error::status, topics::Subscription};

/// Interval of reads without a wake-up: other processes write, too.
const POLL_EVERY: Duration = Duration::from_secs(2);

/// Pause after a wake-up, so that a burst of commits is read once.
const COALESCE: Duration = Duration::from_millis(20);

/// The messages of a stream, read batch by batch.
pub trait Source: Send + 'static {
    /// A message of the stream.
    type Message: Send;

    /// Reads what is new since the last time.
    fn read(&mut self) -> impl Future<Output = Result<Batch<Self::Message>>> + Send;
}

/// Messages that are new.
#[derive(Debug)]
pub struct Batch<M> {
    /// The messages, in their order.
    pub messages: Vec<M>,
    /// The step after them.
    pub then: Then,
}

/// The step after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// More, at once.
    Read,
    /// Nothing, until something changes.
    Wait,
    /// The end of the stream.
    End,
}

/// A server stream, as tonic takes it.
pub type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// The messages of a source, which is read again whenever a transaction publishes to `topic`.
pub fn follow<S: Source>(
    db: &Db,
    topic: Uuid,
    draining: CancellationToken,
    source: S,
) -> Messages<S::Message> {
    let (subscription, ready) = (db.subscribe(topic), VecDeque::new());
    let follower = Follower { source, subscription, draining, ready, then: Then::Read };
    Box::pin(stream::unfold(follower, async |mut it| it.next().await.map(|next| (next, it))))
}

struct Follower<S: Source> {
    source: S,
    subscription: Subscription,
    draining: CancellationToken,
    ready: VecDeque<S::Message>,
    then: Then,
}

impl<S: Source> Follower<S> {
    async fn next(&mut self) -> Option<Result<S::Message, Status>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(Ok(message));
            }
            let going_on = match self.then {
                Then::End => return None,
                Then::Read => true,
                Then::Wait => self.wait().await,
            };
            if !going_on {
                self.then = Then::End;
                return Some(Err(shutting_down()));
            }
            // Before it is read, so that no change is missed in between.
            self.subscription.mark_read();
            match self.source.read().await {
                Ok(batch) => (self.ready, self.then) = (batch.messages.into(), batch.then),
                Err(error) => {
                    self.then = Then::End;
                    return Some(Err(error.into()));
                }
            }
        }
    }

    /// Waits until there may be something new; answers false when the process ends.
    async fn wait(&mut self) -> bool {
        let woken = async {
            self.subscription.changed().await;
            tokio::time::sleep(COALESCE).await;
        };
        tokio::select! {
            () = woken => true,
            () = tokio::time::sleep(POLL_EVERY) => true,
            () = self.draining.cancelled() => false,
        }
    }
}

fn shutting_down() -> Status {
    let message = "this server is shutting down; open the stream again from where it ended";
    status(Code::Unavailable, Reason::ShuttingDown, message, vec![])
}
