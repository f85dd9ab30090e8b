//! Promises about commands beside programs.

use api::project::{CommandLease, CommandSignal, StreamInput, TerminalSize};
use bytes::Bytes;
use runner::driver::{CommandOutput, CommandResult, CommandStreams};
use testkit::{TIMEOUT, eventually};
use tokio::sync::mpsc;

use super::super::bench::Bench;

/// A command with its input and output.
struct Running<'a> {
    inputs: mpsc::Sender<StreamInput>,
    outputs: mpsc::Receiver<CommandOutput>,
    result: std::pin::Pin<Box<dyn Future<Output = anyhow::Result<CommandResult>> + Send + 'a>>,
    output: Vec<u8>,
    errors: Vec<u8>,
}

impl<'a> Running<'a> {
    fn start(bench: &'a Bench, id: &'a str, command: &'a CommandLease) -> Self {
        let (inputs, inputs_receiver) = mpsc::channel(8);
        let (outputs_sender, outputs) = mpsc::channel(8);
        let streams = CommandStreams { inputs: inputs_receiver, outputs: outputs_sender };
        let result = bench.driver.run_command(id, command, streams);
        Self { inputs, outputs, result, output: vec![], errors: vec![] }
    }

    async fn input(&self, input: &[u8]) {
        self.send(StreamInput { input: input.to_vec(), ..Default::default() }).await;
    }

    async fn send(&self, input: StreamInput) {
        self.inputs.send(input).await.unwrap();
    }

    fn add(&mut self, output: CommandOutput) {
        let (into, bytes): (&mut Vec<u8>, Bytes) = match output {
            CommandOutput::Output(bytes) => (&mut self.output, bytes),
            CommandOutput::ErrorOutput(bytes) => (&mut self.errors, bytes),
        };
        into.extend(bytes);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// Waits until the output contains a text.
    async fn wait_for(&mut self, part: &str) {
        let wait = async {
            while !self.text().contains(part) {
                let output = tokio::select! {
                    output = self.outputs.recv() => output,
                    result = &mut self.result => panic!("{result:?} after {}", self.text()),
                };
                self.add(output.unwrap());
            }
        };
        let is_found = tokio::time::timeout(TIMEOUT, wait).await.is_ok();
        assert!(is_found, "no {part} in {}", self.text());
    }

    /// Waits for the end of the command.
    async fn wait(mut self) -> (CommandResult, String, String) {
        let wait = async {
            let mut result = None;
            while result.is_none() || !self.outputs.is_closed() || !self.outputs.is_empty() {
                tokio::select! {
                    output = self.outputs.recv() => match output {
                        Some(output) => self.add(output),
                        None if result.is_some() => break,
                        None => result = Some((&mut self.result).await),
                    },
                    ended = &mut self.result, if result.is_none() => result = Some(ended),
                }
            }
            result.unwrap().unwrap()
        };
        let result = tokio::time::timeout(TIMEOUT, wait).await.expect("the command ends");
        let errors = String::from_utf8_lossy(&self.errors).into_owned();
        (result, self.text(), errors)
    }
}

fn command(arguments: &[&str], terminal_size: Option<TerminalSize>) -> CommandLease {
    let arguments = arguments.iter().map(|it| (*it).to_owned()).collect();
    CommandLease { arguments, terminal_size }
}

/// Returns true if `sleep` runs with this argument. Processes that start it have it as an argument, too.
fn is_running(argument: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|it| std::fs::read(it.path().join("cmdline")).ok());
    let expected = format!("sleep\0{argument}\0");
    lines.any(|it| it == expected.as_bytes())
}

/// A command has the files, account and variables of the program; its error output is apart without a
/// terminal; a terminal has its size and passes Ctrl-C; no process is left of a command.
pub(in crate::runner) async fn commands_run_beside_the_program(bench: &Bench) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let id = bench.environment();
    bench.deploy(&id).await;
    let script = "cat; echo $DATA_DIR >&2; id -u; kill -0 1 2>/dev/null; pwd; exit 3";
    let lease = command(&["sh", "-c", script], None);
    let running = Running::start(bench, &id, &lease);
    running.input(&[0, 1, 2, 255]).await;
    running.send(StreamInput { end_of_input: true, ..Default::default() }).await;
    let (result, output, errors) = running.wait().await;
    assert_eq!((result, errors.trim()), (CommandResult::Exited(3), "/data"), "{output}");
    let (bytes, rest) = output.split_at("\0\u{1}\u{2}\u{fffd}".len());
    let mut lines = rest.lines();
    assert_eq!(bytes, "\0\u{1}\u{2}\u{fffd}");
    assert_ne!(lines.next(), Some("0"), "{output}");
    assert_eq!(lines.next(), Some("/app"), "{output}");

    let size = |columns, rows| Some(TerminalSize { columns, rows });
    let lease = command(&[], size(91, 17));
    let mut shell = Running::start(bench, &id, &lease);
    shell.input(b"printf '\\001\\002'; stty size\n").await;
    shell.wait_for("17 91").await;
    shell.send(StreamInput { terminal_size: size(100, 30), ..Default::default() }).await;
    shell.input(b"stty size\n").await;
    shell.wait_for("30 100").await;
    let argument = format!("9{}", &id.as_bytes().iter().map(|it| u32::from(*it)).sum::<u32>());
    let sleep = format!("setsid sleep {argument} & echo begin-$((40+2)); sleep 0{argument}\n");
    shell.input(sleep.as_bytes()).await;
    shell.wait_for("begin-42").await;
    // The shell itself is in the foreground before that.
    let in_foreground = format!("0{argument}");
    eventually("a sleep", async || is_running(&in_foreground).then_some(())).await;
    shell.input(b"\x03echo next-$((1+1))\n").await;
    shell.wait_for("next-2").await;
    shell.input(b"exit 4\n").await;
    assert_eq!(shell.wait().await.0, CommandResult::Exited(4));
    let is_gone = async || (!is_running(&argument)).then_some(());
    eventually("the end of background processes", is_gone).await;

    let lease = command(&["sleep", &argument], None);
    let running = Running::start(bench, &id, &lease);
    let inputs = running.inputs.clone();
    let kill = async {
        eventually("a sleep", async || is_running(&argument).then_some(())).await;
        let signal = CommandSignal::Kill.into();
        inputs.send(StreamInput { signal, ..Default::default() }).await.unwrap();
    };
    let (ended, ()) = tokio::join!(running.wait(), kill);
    assert_eq!(ended.0, CommandResult::Exited(128 + 9));

    let lease =
        command(&["sh", "-c", &format!("setsid sleep {argument} & sleep {argument}")], None);
    let running = Running::start(bench, &id, &lease);
    let dropped = tokio::select! {
        () = eventually("a sleep", async || is_running(&argument).then_some(())) => true,
        _ = running.wait() => false,
    };
    assert!(dropped, "the command has ended");
    eventually("the end of its processes", is_gone).await;
}
