//! Commands in a container: `exec` of its engine, as the account of the environment, with the limits of the
//! container.

use std::{fs, pin::pin, time::Duration};

use anyhow::Result;
use api::project::{CommandLease, TerminalSize};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{sync::mpsc::Sender, time::timeout};

use super::{
    super::{
        Processes,
        directory::EnvironmentDir,
        launch::Launch,
        process_table::ProcessTable,
        process_tree::{ContainerRef, ProcessTree},
        terminal::cells,
    },
    SHELL, TERMINAL_TYPE,
    transfer::{CommandControl, InputSink, OUTPUT_BYTES, forward_inputs},
};
use crate::{
    docker::{Exec, ExecOutput, ExecSpec},
    driver::{CommandOutput, CommandStreams},
};

/// Interval at which the engine is asked whether a command has ended whose output goes on.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The same after the end of the output.
const END_INTERVAL: Duration = Duration::from_millis(20);

/// Longest wait for the rest of the output after the processes have ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Variable that marks the processes of a session.
const SESSION_VARIABLE: &str = "TENANTRY_SESSION";

/// A session beside a program in a container.
pub(super) struct ContainerSession<'a> {
    pub(super) environment: &'a EnvironmentDir,
    pub(super) program: &'a ProcessTree,
    pub(super) container: &'a ContainerRef,
    pub(super) account: u32,
    pub(super) launch: &'a Launch,
}

/// Processes of a command: its descendants, and those that have its mark. They are killed when this is
/// dropped.
struct MarkedProcesses {
    mark: String,
    account: u32,
    /// Process of the command on this machine.
    pid: Option<u32>,
}

struct Control<'a> {
    processes: &'a MarkedProcesses,
    exec: &'a Exec,
}

impl MarkedProcesses {
    fn signal(&self, signal: Signal) -> bool {
        let table = ProcessTable::read();
        let mut pids: Vec<_> = table
            .of_account(self.account)
            .into_iter()
            .filter(|it| !it.is_zombie && has_variable(it.pid, &self.mark))
            .map(|it| it.pid)
            .collect();
        let tree = self.pid.map(|it| table.tree(it)).unwrap_or_default();
        let tree = tree.into_iter().filter(|it| it.account == self.account && !it.is_zombie);
        pids.extend(tree.map(|it| it.pid));
        for pid in &pids {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, signal);
            }
        }
        !pids.is_empty()
    }

    fn kill(&self) {
        // Repeated, because a process may fork meanwhile.
        for _ in 0..10 {
            if !self.signal(Signal::KILL) {
                break;
            }
        }
    }
}

/// Returns true if a process was started with a variable.
fn has_variable(pid: u32, variable: &str) -> bool {
    let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    variables.split(|it| *it == 0).any(|it| it == variable.as_bytes())
}

impl Drop for MarkedProcesses {
    fn drop(&mut self) {
        self.kill();
    }
}

impl CommandControl for Control<'_> {
    async fn signal(&self, signal: Signal) {
        self.processes.signal(signal);
    }

    async fn resize(&self, size: TerminalSize) {
        let _ = self.exec.resize(cells(size.columns), cells(size.rows)).await;
    }
}

impl Processes {
    /// Runs a command in the container of a program; returns its exit status.
    pub(super) async fn exec_in_container(
        &self,
        session: ContainerSession<'_>,
        command: &CommandLease,
        streams: CommandStreams,
    ) -> Result<i32> {
        let mark = format!("{SESSION_VARIABLE}={}", primitives::id::new());
        let mut processes = MarkedProcesses { mark, account: session.account, pid: None };
        let spec = session.spec(command, &processes.mark);
        let (exec, output, input) = self.docker()?.start_exec(spec).await?;
        processes.pid = exec.pid().await;
        let control = Control { processes: &processes, exec: &exec };
        if let Some(size) = command.terminal_size {
            control.resize(size).await;
        }
        let mut inputs = streams.inputs;
        let forward_inputs = async {
            forward_inputs(&mut inputs, InputSink::Writer(input), &control).await;
            std::future::pending::<()>().await;
        };
        let mut output = pin!(forward_outputs(output, streams.outputs));
        let mut forward_inputs = pin!(forward_inputs);
        let mut stopped = pin!(Self::until_stopped(session.environment, session.program));
        let mut is_complete = false;
        let status = loop {
            // The output usually ends with the command, but not while background processes have it open.
            let interval = if is_complete { END_INTERVAL } else { POLL_INTERVAL };
            tokio::select! {
                () = &mut output, if !is_complete => is_complete = true,
                () = tokio::time::sleep(interval) => {
                    if let Some(status) = exec.exit_status().await? {
                        break status;
                    }
                }
                () = &mut forward_inputs => {}
                () = &mut stopped => break 128 + Signal::KILL.as_raw(),
            }
        };
        processes.kill();
        if !is_complete {
            let _ = timeout(DRAIN_TIMEOUT, output).await;
        }
        Ok(status)
    }
}

/// Forwards the output of a command until its end.
async fn forward_outputs(mut output: ExecOutput, outputs: Sender<CommandOutput>) {
    let mut buffer = vec![0; OUTPUT_BYTES];
    while let Ok((count @ 1.., is_error)) = output.read(&mut buffer).await {
        let bytes = Bytes::copy_from_slice(&buffer[..count]);
        let output =
            if is_error { CommandOutput::ErrorOutput(bytes) } else { CommandOutput::Output(bytes) };
        if outputs.send(output).await.is_err() {
            return;
        }
    }
}

impl<'a> ContainerSession<'a> {
    fn spec(&self, command: &CommandLease, mark: &str) -> ExecSpec<'a> {
        let shell = || ["/bin/sh", "-c", SHELL].map(str::to_owned).to_vec();
        let arguments = Some(command.arguments.clone()).filter(|it| !it.is_empty());
        let has_terminal = command.terminal_size.is_some();
        let terminal = has_terminal.then(|| format!("TERM={TERMINAL_TYPE}"));
        let has_program = self.launch.image.as_ref().is_some_and(|it| it.has_program);
        ExecSpec {
            container_id: &self.container.id,
            account: self.account,
            arguments: arguments.unwrap_or_else(shell),
            variables: std::iter::once(mark.to_owned()).chain(terminal).collect(),
            working_dir: (!has_program).then_some("/app"),
            has_terminal,
        }
    }
}
