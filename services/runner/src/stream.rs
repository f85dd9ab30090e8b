//! Streams to people: the runner leases them from the project service, and sends their parts.

mod command;
mod log_block;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::project::{
    LeaseStreamRequest, LogLine, LogQuery, SendStreamDataRequest, StreamLease, StreamPart,
    StreamState,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{client::TaskClient, driver::Driver};

/// Maximum number of streams at a time.
const STREAMS_MAX: usize = 512;

/// Seconds that the project service waits for a reader before it answers a lease request with none.
const LEASE_WAIT_S: i64 = 20;

/// Pause after a failed call.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Longest time for which a part is sent again and again.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time between two parts.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Number of batches that wait to be sent. One more is read meanwhile.
const BATCHES_MAX: usize = 1;

/// The loop that leases streams.
#[derive(Clone)]
pub(crate) struct Streams {
    client: Arc<dyn TaskClient>,
    driver: Arc<dyn Driver>,
    /// Name of the runner.
    runner: String,
    /// Ids of the streams that are sent. The same stream may be leased twice.
    active: Arc<Mutex<HashSet<String>>>,
}

/// The reader of a stream is gone, or cannot be reached.
struct Closed;

/// A stream that is sent.
struct Sender<'a> {
    client: &'a dyn TaskClient,
    runner: &'a str,
    stream_id: &'a str,
    next_number: i64,
}

impl Streams {
    pub(crate) fn new(
        client: Arc<dyn TaskClient>,
        driver: Arc<dyn Driver>,
        runner: String,
    ) -> Self {
        Self { client, driver, runner, active: Arc::default() }
    }

    /// Leases and sends streams until `stop` is cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(STREAMS_MAX));
        let mut sending = JoinSet::new();
        while !stop.is_cancelled() {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            while sending.try_join_next().is_some() {}
            let wait = Some(prost_types::Duration { seconds: LEASE_WAIT_S, nanos: 0 });
            let request = LeaseStreamRequest { runner: self.runner.clone(), wait };
            let leased = tokio::select! {
                leased = self.client.lease_stream(request) => leased,
                () = stop.cancelled() => return,
            };
            match leased {
                Ok(Some(lease)) => {
                    let streams = self.clone();
                    sending.spawn(async move {
                        streams.send(&lease).await;
                        drop(slot);
                    });
                }
                Ok(None) => {}
                Err(status) => {
                    // An older project service has no streams.
                    if status.code() != Code::Unimplemented {
                        let code = status.code();
                        tracing::warn!(?code, error = status.message(), "leasing a stream failed");
                    }
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(RETRY_INTERVAL) => {}
                    }
                }
            }
        }
    }

    async fn send(&self, lease: &StreamLease) {
        if !self.lock_active().insert(lease.stream_id.clone()) {
            return;
        }
        match (&lease.log, &lease.command) {
            (Some(query), _) => self.send_log(lease, query).await,
            (None, Some(command)) => self.run_command(lease, command).await,
            (None, None) => {}
        }
        self.lock_active().remove(&lease.stream_id);
    }

    async fn send_log(&self, lease: &StreamLease, query: &LogQuery) {
        let (sender, mut batches) = mpsc::channel(BATCHES_MAX);
        let read = self.driver.read_log(&lease.environment_id, query, sender);
        let mut stream = self.sender(lease);
        // Polled at the same time; the receiver is dropped when the reader is gone, which ends the other.
        let send = async move {
            let sent = stream.send_batches(&mut batches).await;
            drop(batches);
            sent.map(|()| stream)
        };
        let (read, sent) = tokio::join!(read, send);
        if let Ok(mut stream) = sent {
            let error = read.err().map(|it| format!("{it:#}"));
            let last = StreamPart {
                last: true,
                error_message: error.unwrap_or_default(),
                ..StreamPart::default()
            };
            let _ = stream.send_part(last).await;
        }
    }

    fn sender<'a>(&'a self, lease: &'a StreamLease) -> Sender<'a> {
        Sender {
            client: self.client.as_ref(),
            runner: &self.runner,
            stream_id: &lease.stream_id,
            next_number: 0,
        }
    }

    fn lock_active(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender<'_> {
    /// Sends batches until there are no more. The first part is sent at once, also without lines.
    async fn send_batches(
        &mut self,
        batches: &mut mpsc::Receiver<Vec<LogLine>>,
    ) -> Result<(), Closed> {
        self.send_part(StreamPart::default()).await?;
        loop {
            match timeout(SILENCE_MAX, batches.recv()).await {
                Ok(Some(lines)) => {
                    for block in log_block::blocks(&lines) {
                        let part = StreamPart { log: Some(block), ..StreamPart::default() };
                        self.send_part(part).await?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(_) => self.send_part(StreamPart::default()).await?,
            }
        }
    }

    async fn send_part(&mut self, part: StreamPart) -> Result<(), Closed> {
        let part = StreamPart { number: self.next_number, ..part };
        self.next_number += 1;
        let mut deadline = Instant::now() + SEND_TIMEOUT;
        while Instant::now() < deadline {
            let request = SendStreamDataRequest {
                runner: self.runner.to_owned(),
                stream_id: self.stream_id.to_owned(),
                part: Some(part.clone()),
            };
            match self.client.send_part(request).await {
                Ok(StreamState::Open) => return Ok(()),
                // The reader is there, but slow.
                Ok(StreamState::Busy) => deadline = Instant::now() + SEND_TIMEOUT,
                Ok(_) => return Err(Closed),
                Err(status) => {
                    let code = status.code();
                    tracing::debug!(?code, error = status.message(), "part of a stream not sent");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
        Err(Closed)
    }
}
