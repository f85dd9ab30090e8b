//! Streams of commands: their input is received by a long poll, at the same time as their output is sent.

use std::time::Duration;

use api::project::{
    CommandExit, CommandLease, ReceiveStreamInputRequest, StreamInput, StreamLease, StreamPart,
    StreamState,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{Closed, RETRY_INTERVAL, SEND_TIMEOUT, Sender, Streams};
use crate::driver::{CommandOutput, CommandResult, CommandStreams};

/// Longest time between two parts. Shorter than that of logs: the response also shows that the caller is gone
/// while the command does not read its input.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Number of messages that wait for a command.
const INPUTS_MAX: usize = 16;

/// Number of outputs that wait to be sent.
const OUTPUTS_MAX: usize = 16;

/// Bytes of output in one part, before one more output.
const PART_BYTES: usize = 128 << 10;

impl Streams {
    /// Runs a command until it ends, or its caller is gone: then its processes are killed.
    pub(super) async fn run_command(&self, lease: &StreamLease, command: &CommandLease) {
        let (inputs_sender, inputs) = mpsc::channel(INPUTS_MAX);
        let (outputs, mut outputs_receiver) = mpsc::channel(OUTPUTS_MAX);
        let streams = CommandStreams { inputs, outputs };
        let run = self.driver.run_command(&lease.environment_id, command, streams);
        let mut stream = self.sender(lease);
        let run = async { Ok(run.await) };
        let send = stream.send_outputs(&mut outputs_receiver);
        let ended = tokio::select! {
            ended = async { tokio::try_join!(run, send) } => ended,
            closed = self.receive_inputs(lease, inputs_sender) => Err(closed),
        };
        let Ok((result, ())) = ended else { return };
        let mut last = StreamPart { last: true, ..StreamPart::default() };
        match result {
            Ok(CommandResult::Exited(status)) => last.exit = Some(CommandExit { status }),
            Ok(CommandResult::Refused(refusal)) => last.refusal = refusal.into(),
            Err(error) => last.error_message = format!("{error:#}"),
        }
        let _ = stream.send_part(last).await;
    }

    /// Receives the input of a command until its caller is gone, or cannot be reached.
    async fn receive_inputs(
        &self,
        lease: &StreamLease,
        inputs: mpsc::Sender<StreamInput>,
    ) -> Closed {
        let mut next_number = 0;
        let mut deadline = Instant::now() + SEND_TIMEOUT;
        while Instant::now() < deadline {
            let request = ReceiveStreamInputRequest {
                runner: self.runner.clone(),
                stream_id: lease.stream_id.clone(),
                next_number,
            };
            match self.client.receive_input(request).await {
                Ok(Some(received)) if received.state() == StreamState::Closed => return Closed,
                Ok(Some(received)) => {
                    for message in received.messages {
                        if message.number < next_number {
                            continue;
                        }
                        next_number = message.number + 1;
                        // Fails if the command has ended. The result of the command is sent then.
                        let _ = inputs.send(message).await;
                    }
                    deadline = Instant::now() + SEND_TIMEOUT;
                }
                Ok(None) => tokio::time::sleep(RETRY_INTERVAL).await,
                Err(status) => {
                    let code = status.code();
                    tracing::debug!(?code, error = status.message(), "no input of a command");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
        Closed
    }
}

impl Sender<'_> {
    /// Sends outputs until there are no more. The first part is sent at once, also without output.
    async fn send_outputs(
        &mut self,
        outputs: &mut mpsc::Receiver<CommandOutput>,
    ) -> Result<(), Closed> {
        self.send_part(StreamPart::default()).await?;
        loop {
            let mut part = StreamPart::default();
            match timeout(SILENCE_MAX, outputs.recv()).await {
                Ok(Some(output)) => append(&mut part, &output),
                Ok(None) => return Ok(()),
                Err(_) => {}
            }
            while part.output.len() + part.error_output.len() < PART_BYTES
                && let Ok(output) = outputs.try_recv()
            {
                append(&mut part, &output);
            }
            self.send_part(part).await?;
        }
    }
}

fn append(part: &mut StreamPart, output: &CommandOutput) {
    match output {
        CommandOutput::Output(bytes) => part.output.extend_from_slice(bytes),
        CommandOutput::ErrorOutput(bytes) => part.error_output.extend_from_slice(bytes),
    }
}
