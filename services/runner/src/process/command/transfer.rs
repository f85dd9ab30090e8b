//! Input and output of a command: a terminal, or pipes.

use std::io;

use api::project::{CommandSignal, StreamInput, TerminalSize};
use bytes::{Buf, Bytes, BytesMut};
use rustix::process::Signal;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc::{Receiver, Sender},
};

use super::super::terminal::Terminal;
use crate::driver::CommandOutput;

/// Maximum size of one output, in bytes.
pub(super) const OUTPUT_BYTES: usize = 32 << 10;

/// Bytes of input that wait for the command, before one more message.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// Controls of a command besides its input.
pub(super) trait CommandControl {
    /// Sends a signal to the processes of the session.
    async fn signal(&self, signal: Signal);
    /// Sets the size of the terminal.
    async fn resize(&self, size: TerminalSize);
}

/// Receiver of the input.
pub(super) enum InputSink<'a, W> {
    Terminal(&'a Terminal),
    /// Pipe or connection.
    Writer(W),
    Closed,
}

impl<W: AsyncWrite + Unpin> InputSink<'_, W> {
    /// Writes a part of the input; returns its length. Cancel-safe.
    async fn write(&mut self, input: &[u8]) -> io::Result<usize> {
        match self {
            Self::Terminal(terminal) => terminal.write(input).await,
            Self::Writer(writer) => {
                let written = writer.write(input).await?;
                writer.flush().await?;
                Ok(written)
            }
            Self::Closed => Ok(input.len()),
        }
    }

    async fn close(&mut self) {
        if let Self::Writer(writer) = self {
            let _ = writer.shutdown().await;
            *self = Self::Closed;
        }
    }
}

/// Forwards messages to a command until there are no more. A command that does not read its input still
/// receives signals, until much input waits.
pub(super) async fn forward_inputs<W: AsyncWrite + Unpin>(
    inputs: &mut Receiver<StreamInput>,
    mut sink: InputSink<'_, W>,
    control: &impl CommandControl,
) {
    let mut pending = BytesMut::new();
    let mut is_ended = false;
    loop {
        tokio::select! {
            message = inputs.recv(), if pending.len() < INPUT_BYTES_MAX => {
                let Some(message) = message else { return };
                if let Some(size) = message.terminal_size {
                    control.resize(size).await;
                }
                pending.extend_from_slice(&message.input);
                if let Some(signal) = signal_of(message.signal()) {
                    control.signal(signal).await;
                }
                is_ended |= message.end_of_input;
            }
            written = sink.write(&pending), if !pending.is_empty() => {
                // A command that has closed its input gets no more.
                let written = written.unwrap_or(pending.len());
                pending.advance(written);
            }
        }
        if is_ended && pending.is_empty() {
            sink.close().await;
        }
    }
}

fn signal_of(signal: CommandSignal) -> Option<Signal> {
    Some(match signal {
        CommandSignal::Unspecified => return None,
        CommandSignal::Hangup => Signal::HUP,
        CommandSignal::Interrupt => Signal::INT,
        CommandSignal::Quit => Signal::QUIT,
        CommandSignal::Kill => Signal::KILL,
        CommandSignal::User1 => Signal::USR1,
        CommandSignal::User2 => Signal::USR2,
        CommandSignal::Terminate => Signal::TERM,
    })
}

/// Forwards the output of a terminal until its end.
pub(super) async fn forward_terminal(terminal: &Terminal, outputs: &Sender<CommandOutput>) {
    let mut buffer = vec![0; OUTPUT_BYTES];
    while let Ok(count @ 1..) = terminal.read(&mut buffer).await {
        let output = CommandOutput::Output(Bytes::copy_from_slice(&buffer[..count]));
        if outputs.send(output).await.is_err() {
            return;
        }
    }
}

/// Forwards the output of a pipe until its end.
pub(super) async fn forward_pipe(
    mut pipe: impl AsyncRead + Unpin,
    to_output: impl Fn(Bytes) -> CommandOutput,
    outputs: &Sender<CommandOutput>,
) {
    let mut buffer = vec![0; OUTPUT_BYTES];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let output = to_output(Bytes::copy_from_slice(&buffer[..count]));
        if outputs.send(output).await.is_err() {
            return;
        }
    }
}
