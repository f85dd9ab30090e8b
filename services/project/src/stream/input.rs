//! Input of a command: messages of its caller, which wait at the replica that the caller has called until the
//! runner receives them:
//!
//! ```text
//! caller → replica A ←── request ── replica C ←── ReceiveStreamInput ─── runner
//!                    ─── messages →
//! ```

use std::{collections::VecDeque, time::Duration};

use api::project as pb;
use chassis::{Error, Result};
use futures::{Stream, StreamExt, future::pending};
use host::replica_messages::{IncomingRequest, Listener, Response};
use project_rules::types::ServerId;
use prost::Message;
use tokio::time::Instant;
use uuid::Uuid;

use super::RunnerStreams;

/// Longest wait for a message before a request is answered without one.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// Longest wait for the response of another replica.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Number of messages that wait for the runner. The caller is slowed down then.
const QUEUE_MAX: usize = 64;

/// Bytes of input that wait for the runner, before one more message of at most 32 KiB.
const QUEUE_BYTES_MAX: usize = 96 << 10;

/// Messages to a command that its runner has not confirmed.
pub(crate) struct InputQueue {
    requests: Listener,
    queue: VecDeque<pb::StreamInput>,
    next_number: i64,
    /// Request of the runner that waits for a message.
    waiting: Option<IncomingRequest>,
    respond_by: Instant,
}

impl RunnerStreams {
    /// Receives the requests for the input of a stream from now on.
    pub(crate) async fn input_queue(
        &self,
        server_id: ServerId,
        stream_id: Uuid,
    ) -> Result<InputQueue> {
        Ok(InputQueue {
            requests: self.messages.listen(&input_subject(server_id, stream_id)).await?,
            queue: VecDeque::new(),
            next_number: 0,
            waiting: None,
            respond_by: Instant::now(),
        })
    }

    /// Returns the messages from `next_number` on, and confirms the earlier ones. Waits for a message.
    pub(crate) async fn receive_input(
        &self,
        server_id: ServerId,
        stream_id: Uuid,
        next_number: i64,
    ) -> Result<pb::StreamInputs> {
        let subject = input_subject(server_id, stream_id);
        let payload = next_number.to_be_bytes().to_vec().into();
        let response = self.messages.request(&subject, payload, REQUEST_TIMEOUT).await?;
        Ok(match response {
            Response::Payload(it) => {
                pb::StreamInputs::decode(&it[..]).map_err(anyhow::Error::from)?
            }
            Response::TimedOut => no_messages(pb::StreamState::Open),
            Response::NoListener => no_messages(pb::StreamState::Closed),
        })
    }
}

impl InputQueue {
    /// Adds a message.
    pub(crate) fn push(&mut self, message: pb::StreamInput) {
        self.queue.push_back(pb::StreamInput { number: self.next_number, ..message });
        self.next_number += 1;
    }

    /// Forwards the messages of a caller. Their end is the end of the input. Returns only an error of the
    /// caller's stream.
    pub(crate) async fn forward(
        &mut self,
        mut messages: impl Stream<Item = Result<pb::StreamInput>> + Unpin,
    ) -> Error {
        let mut is_open = true;
        loop {
            let bytes: usize = self.queue.iter().map(|it| it.input.len()).sum();
            let has_room = self.queue.len() < QUEUE_MAX && bytes < QUEUE_BYTES_MAX;
            tokio::select! {
                request = self.requests.next() => match request {
                    Some(request) => self.accept(request).await,
                    None => pending().await,
                },
                message = messages.next(), if is_open && has_room => match message {
                    Some(Ok(message)) => self.push(message),
                    Some(Err(error)) => return error,
                    None => {
                        is_open = false;
                        self.push(pb::StreamInput { end_of_input: true, ..Default::default() });
                    }
                },
                () = tokio::time::sleep_until(self.respond_by), if self.waiting.is_some() => {
                    self.respond(no_messages(pb::StreamState::Open)).await;
                }
            }
            if self.waiting.is_some() && !self.queue.is_empty() {
                let messages = self.queue.iter().cloned().collect();
                let state = pb::StreamState::Open.into();
                self.respond(pb::StreamInputs { messages, state }).await;
            }
        }
    }

    /// Ends the session at the runner.
    pub(crate) async fn close(mut self) {
        self.respond(no_messages(pb::StreamState::Closed)).await;
    }

    /// Removes the messages that a request confirms, and keeps it until there is a message. An earlier one is
    /// abandoned.
    async fn accept(&mut self, request: IncomingRequest) {
        self.respond(no_messages(pb::StreamState::Open)).await;
        let Ok(bytes) = request.payload[..].try_into() else { return };
        let next_number = i64::from_be_bytes(bytes);
        self.queue.retain(|it| it.number >= next_number);
        self.waiting = Some(request);
        self.respond_by = Instant::now() + WAIT_MAX;
    }

    async fn respond(&mut self, inputs: pb::StreamInputs) {
        if let Some(request) = self.waiting.take() {
            request.reply(inputs.encode_to_vec().into()).await;
        }
    }
}

fn no_messages(state: pb::StreamState) -> pb::StreamInputs {
    pb::StreamInputs { messages: vec![], state: state.into() }
}

fn input_subject(server_id: ServerId, stream_id: Uuid) -> String {
    format!("project.{server_id}.inputs.{stream_id}")
}
