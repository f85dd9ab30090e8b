//! Streams from runners to readers: data of an environment that its server keeps. The replica that a reader
//! has called asks the replicas at which the runner of the server waits, and receives the parts of the
//! stream from the replicas to which the runner sends them:
//!
//! ```text
//! reader → replica A ── offer ──→ replica B ←── LeaseStream ─── runner
//!                   ←── parts ─── replica C ←── SendStreamData ─┘
//! ```
//!
//! Nothing is stored. A part that is lost ends the stream with an error.

pub(crate) mod input;

use std::time::Duration;

use api::{error::Reason, project as pb};
use chassis::{Error, Result, error::status, foreign_text::clean_block};
use futures::{Stream, stream};
use host::replica_messages::{Listener, ReplicaMessages, Response};
use project_rules::{server::Refused, types::ServerId};
use prost::Message;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use uuid::Uuid;
use worker::watch::shutting_down;

/// Longest wait for a runner to take a stream, and for the first part of it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between two offers of a stream, while no runner waits.
const OFFER_INTERVAL: Duration = Duration::from_millis(100);

/// Longest wait for the response to an offer.
const OFFER_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for a reader to receive a part. The runner sends it again.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time between two parts. Runners send one at least every 10 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Maximum length of an error of a runner, in bytes.
const ERROR_BYTES_MAX: usize = 2_000;

/// Opens streams, and forwards their parts.
#[derive(Clone)]
pub(crate) struct RunnerStreams {
    messages: ReplicaMessages,
}

/// Receiver of the streams that readers open on a server.
pub(crate) struct Waiting(Listener);

/// State of an open stream at its reader.
struct Reader {
    parts: Listener,
    next_number: i64,
    deadline: Instant,
    server_id: ServerId,
    draining: CancellationToken,
    is_ended: bool,
}

impl RunnerStreams {
    pub(crate) fn new(messages: ReplicaMessages) -> Self {
        Self { messages }
    }

    /// Opens a stream on a server; sets its id in the lease. Fails if its runner takes no streams.
    pub(crate) async fn open(
        &self,
        server_id: ServerId,
        stream_id: Uuid,
        lease: pb::StreamLease,
        draining: CancellationToken,
    ) -> Result<impl Stream<Item = Result<pb::StreamPart, Status>> + Send + use<>> {
        let parts = self.messages.listen(&parts_subject(server_id, stream_id)).await?;
        let lease = pb::StreamLease { stream_id: stream_id.to_string(), ..lease };
        let deadline = Instant::now() + OPEN_TIMEOUT;
        self.offer(server_id, &lease, deadline).await?;
        let reader =
            Reader { parts, next_number: 0, deadline, server_id, draining, is_ended: false };
        Ok(stream::unfold(reader, async |mut reader| {
            reader.next().await.map(|part| (part, reader))
        }))
    }

    async fn offer(
        &self,
        server_id: ServerId,
        lease: &pb::StreamLease,
        deadline: Instant,
    ) -> Result<()> {
        let subject = offers_subject(server_id);
        while Instant::now() < deadline {
            let payload = lease.encode_to_vec().into();
            match self.messages.request(&subject, payload, OFFER_TIMEOUT).await? {
                Response::Payload(_) => return Ok(()),
                Response::TimedOut => {}
                // Between two calls of the runner.
                Response::NoListener => tokio::time::sleep(OFFER_INTERVAL).await,
            }
        }
        Err(Refused::Unreachable(Some(server_id)).into())
    }

    /// Waits for readers of a server.
    pub(crate) async fn wait_for_readers(&self, server_id: ServerId) -> Result<Waiting> {
        Ok(Waiting(self.messages.listen(&offers_subject(server_id)).await?))
    }

    /// Sends a part to its reader. The server is that of the runner, so that a runner cannot send to readers
    /// of another server.
    pub(crate) async fn send(
        &self,
        server_id: ServerId,
        stream_id: Uuid,
        part: &pb::StreamPart,
    ) -> Result<pb::StreamState> {
        let subject = parts_subject(server_id, stream_id);
        let payload = part.encode_to_vec().into();
        Ok(match self.messages.request(&subject, payload, SEND_TIMEOUT).await? {
            Response::Payload(_) => pb::StreamState::Open,
            Response::TimedOut => pb::StreamState::Busy,
            Response::NoListener => pb::StreamState::Closed,
        })
    }
}

impl Waiting {
    /// Returns the next stream to send.
    pub(crate) async fn next(&mut self) -> Option<pb::StreamLease> {
        let offer = self.0.next().await?;
        let lease = pb::StreamLease::decode(&offer.payload[..]).ok();
        offer.reply(vec![].into()).await;
        lease
    }
}

impl Reader {
    /// Returns the next part. A part is confirmed when it is requested here, so that a slow reader slows the
    /// runner down.
    async fn next(&mut self) -> Option<Result<pb::StreamPart, Status>> {
        if self.is_ended {
            return None;
        }
        let part = self.receive().await;
        self.is_ended = part.as_ref().map_or(true, |it| it.last);
        Some(part)
    }

    async fn receive(&mut self) -> Result<pb::StreamPart, Status> {
        loop {
            let request = tokio::select! {
                request = self.parts.next() => request,
                () = tokio::time::sleep_until(self.deadline) => None,
                () = self.draining.cancelled() => return Err(shutting_down()),
            };
            let Some(request) = request else {
                return Err(Error::from(Refused::Unreachable(Some(self.server_id))).into());
            };
            self.deadline = Instant::now() + SILENCE_MAX;
            let part = pb::StreamPart::decode(&request.payload[..]);
            let part = part.map_err(|_| interrupted())?;
            request.reply(vec![].into()).await;
            if part.number < self.next_number {
                continue;
            }
            if part.number > self.next_number {
                return Err(interrupted());
            }
            self.next_number += 1;
            if !part.error_message.is_empty() {
                let error = clean_block(&part.error_message, ERROR_BYTES_MAX);
                return Err(Status::unknown(format!("the runner of the server failed: {error}")));
            }
            return Ok(part);
        }
    }
}

fn offers_subject(server_id: ServerId) -> String {
    format!("project.{server_id}.offers")
}

fn parts_subject(server_id: ServerId, stream_id: Uuid) -> String {
    format!("project.{server_id}.streams.{stream_id}")
}

fn interrupted() -> Status {
    let message = "a part of the stream was lost; open the stream again";
    status(Code::Unavailable, Reason::ShuttingDown, message, vec![])
}
