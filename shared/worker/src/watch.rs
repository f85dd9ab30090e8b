//! Streams that watch an object: its current messages, then new ones, until the object is complete or the
//! process shuts down. The server stack limits the number of streams and checks the permissions of their
//! readers.

use std::{collections::VecDeque, future::Future, pin::Pin, time::Duration};

use api::error::Reason;
use chassis::{Db, Result, error::status, topics::Subscription};
use futures::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use uuid::Uuid;

/// Longest pause between two reads, for commits of other processes, which notify no stream of this process.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Pause after a notification, so that several commits in a row are read together.
const COALESCE: Duration = Duration::from_millis(20);

/// Source of the messages of a stream.
pub trait Source: Send + 'static {
    /// Message of the stream.
    type Message: Send;

    /// Reads the messages that are new since the last read.
    fn read(&mut self) -> impl Future<Output = Result<Batch<Self::Message>>> + Send;
}

/// New messages.
#[derive(Debug)]
pub struct Batch<M> {
    /// The messages, in their order.
    pub messages: Vec<M>,
    /// Action after them.
    pub then: Then,
}

/// Action after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Read again at once, because there may be more messages.
    Read,
    /// Wait for a change.
    Wait,
    /// End the stream.
    End,
}

/// Server stream for tonic.
pub type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Returns a stream of the messages of a source, which is read again after each commit that publishes to
/// `topic`.
pub fn follow<S: Source>(
    db: &Db,
    topic: Uuid,
    draining: CancellationToken,
    source: S,
) -> Messages<S::Message> {
    let follower = Follower {
        source,
        subscription: db.subscribe(topic),
        draining,
        ready: VecDeque::new(),
        then: Then::Read,
    };
    Box::pin(stream::unfold(follower, async |mut follower| {
        follower.next().await.map(|message| (message, follower))
    }))
}

/// State of a stream.
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
            let is_running = match self.then {
                Then::End => return None,
                Then::Read => true,
                Then::Wait => self.wait().await,
            };
            if !is_running {
                self.then = Then::End;
                return Some(Err(shutting_down()));
            }
            // Before the read, so that a change during the read is not missed.
            self.subscription.mark_read();
            match self.source.read().await {
                Ok(batch) => {
                    self.ready = batch.messages.into();
                    self.then = batch.then;
                }
                Err(error) => {
                    self.then = Then::End;
                    return Some(Err(error.into()));
                }
            }
        }
    }

    /// Waits for a change or the interval. Returns false when the process shuts down.
    async fn wait(&mut self) -> bool {
        let notified = async {
            self.subscription.changed().await;
            tokio::time::sleep(COALESCE).await;
        };
        tokio::select! {
            () = notified => true,
            () = tokio::time::sleep(POLL_INTERVAL) => true,
            () = self.draining.cancelled() => false,
        }
    }
}

/// Returns the status with which streams end when their process shuts down.
pub fn shutting_down() -> Status {
    let message = "this server is shutting down; reopen the stream after the last message";
    status(Code::Unavailable, Reason::ShuttingDown, message, vec![])
}
