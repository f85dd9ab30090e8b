//! `tenantry shell`: a shell, or another command, beside the program of an environment.

use std::{
    convert::Infallible,
    io::{IsTerminal, Read, Write},
};

use anyhow::{Context, Result};
use api::project::{
    RunCommandRequest, TerminalSize,
    environment_command_service_client::EnvironmentCommandServiceClient,
};
use futures::{SinkExt, channel::mpsc};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
};

use crate::environment_arguments::EnvironmentArguments;

/// Maximum size of one input, in bytes.
const INPUT_BYTES: usize = 16 << 10;

/// Arguments of `shell`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: EnvironmentArguments,
    /// Id of the environment.
    environment: String,
    /// Command with its arguments; by default a shell.
    #[arg(last = true)]
    command: Vec<String>,
}

/// The terminal of this process in raw mode, until this is dropped.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("cannot read the mode of the terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Drain, &raw)
            .context("cannot change the mode of the terminal")?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Runs the command; returns its exit status. With a terminal if standard input and output are one.
pub(crate) async fn run(arguments: Arguments) -> Result<u8> {
    let client = arguments.target.connect().await?;
    let has_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let first = RunCommandRequest {
        org_id: arguments.target.org,
        project_id: arguments.target.project,
        environment_id: arguments.environment,
        arguments: arguments.command,
        terminal_size: has_terminal.then(terminal_size),
        ..RunCommandRequest::default()
    };
    let (mut requests, receiver) = mpsc::channel(1);
    requests.send(first).await?;
    let mut service = EnvironmentCommandServiceClient::new(client.channel());
    let mut messages = service.run_command(client.request(receiver)?).await?.into_inner();
    // After the response, so that an error is printed in the usual mode.
    let _raw_mode = has_terminal.then(RawMode::enter).transpose()?;
    let input = requests.clone();
    // Not a task: the end of the process does not wait for a thread that reads.
    let runtime = Handle::current();
    std::thread::spawn(move || forward_input(&runtime, input));
    // Without a terminal the end of the input is the end of the messages.
    let resized = has_terminal.then(|| forward_size(requests));
    let output = async {
        while let Some(message) = messages.message().await? {
            write_all(std::io::stdout(), &message.output)?;
            write_all(std::io::stderr(), &message.error_output)?;
            if let Some(exit) = message.exit {
                return Ok(u8::try_from(exit.status).unwrap_or(u8::MAX));
            }
        }
        anyhow::bail!("the session ended without an exit status")
    };
    let Some(resized) = resized else { return output.await };
    tokio::select! {
        status = output => status,
        never = resized => match never {},
    }
}

/// Forwards standard input. Its end is the end of the input.
fn forward_input(runtime: &Handle, mut requests: mpsc::Sender<RunCommandRequest>) {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; INPUT_BYTES];
    while let Ok(count @ 1..) = stdin.read(&mut buffer) {
        let request = RunCommandRequest { input: buffer[..count].to_vec(), ..Default::default() };
        if runtime.block_on(requests.send(request)).is_err() {
            return;
        }
    }
    let end = RunCommandRequest { end_of_input: true, ..Default::default() };
    let _ = runtime.block_on(requests.send(end));
}

/// Forwards changes of the size of the terminal.
async fn forward_size(mut requests: mpsc::Sender<RunCommandRequest>) -> Infallible {
    if let Ok(mut changes) = signal(SignalKind::window_change()) {
        while changes.recv().await.is_some() {
            let terminal_size = Some(terminal_size());
            let request = RunCommandRequest { terminal_size, ..Default::default() };
            // Fails after the end of the call.
            let _ = requests.send(request).await;
        }
    }
    std::future::pending().await
}

/// Size of the terminal; 80 columns and 24 rows if it is unknown.
fn terminal_size() -> TerminalSize {
    let size = tcgetwinsize(std::io::stdout()).ok().filter(|it| it.ws_col > 0 && it.ws_row > 0);
    size.map_or(TerminalSize { columns: 80, rows: 24 }, |it| TerminalSize {
        columns: it.ws_col.into(),
        rows: it.ws_row.into(),
    })
}

fn write_all(mut output: impl Write, bytes: &[u8]) -> Result<()> {
    output.write_all(bytes)?;
    output.flush().context("cannot write the output")
}
