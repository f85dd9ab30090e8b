//! Commands in a sandbox. A command joins the namespaces of the program, as the environment's account:
//!
//! ```text
//! sh (gate)  setsid  prlimit │ setpriv  nsenter          │ setsid  sh  command
//! └─ the runner's account ───┘ └─ account, CAP_SYS_ADMIN ┘ └─ account, no capabilities
//!    files of the machine         files of the machine      files of the sandbox
//! ```
//!
//! `nsenter` joins the user namespace last, by which it loses its capabilities outside of the sandbox, and
//! it loses the others when it executes the command. So nothing in the sandbox is opened or executed with a
//! right that programs do not have. The variables of the program are passed through a pipe, as to programs.

use std::{
    fmt::Write as _,
    os::unix::process::ExitStatusExt,
    path::Path,
    pin::pin,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use api::project::{CommandLease, TerminalSize};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::mpsc::Sender,
    time::timeout,
};

use super::{
    super::{
        Processes,
        directory::EnvironmentDir,
        launch::Launch,
        limits::Limiter,
        process_table::ProcessTable,
        process_tree::ProcessTree,
        sandbox::{PATH, program_path},
        terminal::Terminal,
    },
    SHELL, TERMINAL_TYPE,
    transfer::{CommandControl, InputSink, forward_inputs, forward_pipe, forward_terminal},
};
use crate::driver::{CommandOutput, CommandStreams};

/// Longest wait for the rest of the output after the processes have ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Namespaces of a sandbox that a command joins, besides that of its network, which has a path.
const NAMESPACES: [&str; 6] = ["mnt", "pid", "ipc", "uts", "cgroup", "user"];

/// Options of `nsenter` for [`NAMESPACES`], which the gate opens.
const NAMESPACE_OPTIONS: [&str; 6] = [
    "--mount=/proc/self/fd/4",
    "--pid=/proc/self/fd/5",
    "--ipc=/proc/self/fd/6",
    "--uts=/proc/self/fd/7",
    "--cgroup=/proc/self/fd/8",
    "--user=/proc/self/fd/9",
];

/// Capabilities of `nsenter` until it has joined the user namespace.
const CAPABILITIES: &str = "-all,+sys_admin,+sys_chroot";

/// Shell command of the gate: reads a line, then executes its arguments but the first seven. Those are the
/// terminal, or nothing, and the files of [`NAMESPACES`], which become file descriptors 4 to 9. File
/// descriptor 3 has the rest of the input.
const GATE: &str = r#"read -r _ || exit
tty=$1
exec 3<&0 4<"$2" 5<"$3" 6<"$4" 7<"$5" 8<"$6" 9<"$7" || exit
shift 7
if [ -n "$tty" ]; then exec "$@" <>"$tty" >&0 2>&0; else exec "$@"; fi"#;

/// Shell command in the sandbox: sets the variables, and executes its arguments.
const START: &str = r#"IFS= read -r variables <&3
exec 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-
eval "$(printf %b "$variables")"
unset variables
cd /app 2>/dev/null
exec "$@""#;

/// A session beside a program in a sandbox.
pub(super) struct SandboxSession<'a> {
    pub(super) environment: &'a EnvironmentDir,
    pub(super) program: &'a ProcessTree,
    pub(super) account: u32,
    pub(super) launch: &'a Launch,
}

/// Processes of a command. They are killed when this is dropped.
struct SessionProcesses {
    limiter: Limiter,
    /// Control group.
    group: String,
    /// `nsenter`, which waits for the command outside of the sandbox.
    launcher: u32,
}

/// Processes and terminal of a command.
struct Control<'a> {
    processes: &'a SessionProcesses,
    terminal: Option<&'a Terminal>,
}

/// Output of a command.
enum OutputSource<'a> {
    Terminal(&'a Terminal),
    Pipes(ChildStdout, ChildStderr),
}

impl SessionProcesses {
    fn pids(&self) -> Vec<u32> {
        self.limiter.processes(&self.group).unwrap_or_else(|| {
            let table = ProcessTable::read();
            table.tree(self.launcher).into_iter().map(|it| it.pid).collect()
        })
    }

    /// Sends a signal to the processes in the sandbox, or to the launcher before there are any.
    fn signal(&self, signal: Signal) {
        let mut pids = self.pids();
        if pids.len() > 1 {
            pids.retain(|it| *it != self.launcher);
        }
        for pid in pids {
            send(pid, signal);
        }
    }

    /// Kills all processes.
    fn kill(&self) {
        // Repeated, because a process may fork meanwhile.
        for _ in 0..10 {
            let pids = self.pids();
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                send(pid, Signal::KILL);
            }
        }
    }
}

impl Drop for SessionProcesses {
    fn drop(&mut self) {
        self.kill();
    }
}

impl CommandControl for Control<'_> {
    async fn signal(&self, signal: Signal) {
        self.processes.signal(signal);
    }

    async fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = self.terminal {
            let _ = terminal.resize(size);
        }
    }
}

impl OutputSource<'_> {
    async fn forward(self, outputs: Sender<CommandOutput>) {
        match self {
            Self::Terminal(terminal) => forward_terminal(terminal, &outputs).await,
            Self::Pipes(stdout, stderr) => {
                tokio::join!(
                    forward_pipe(stdout, CommandOutput::Output, &outputs),
                    forward_pipe(stderr, CommandOutput::ErrorOutput, &outputs),
                );
            }
        }
    }
}

impl Processes {
    /// Runs a command in the sandbox of a program; returns its exit status.
    pub(super) async fn run_in_sandbox(
        &self,
        session: SandboxSession<'_>,
        command: &CommandLease,
        streams: CommandStreams,
    ) -> Result<i32> {
        let terminal = command.terminal_size.map(|size| Terminal::new(size, session.account));
        let terminal = terminal.transpose().context("a terminal cannot be created")?;
        let (terminal, device) = terminal.unzip();
        let files =
            session.program.open_namespaces(&NAMESPACES).context("the program has ended")?;
        let paths = files.iter().map(own_file);
        let mut launcher = self.launcher(&session, terminal.as_ref(), paths).await?;
        if command.arguments.is_empty() {
            launcher.args(["/bin/sh", "-c", SHELL]);
        }
        launcher.args(&command.arguments);
        let mut child = launcher.spawn().context("cannot start sh")?;
        let group = format!("{}.command-{}", session.environment.id(), primitives::id::new());
        let launcher = child.id().context("the command ended immediately")?;
        let limiter = self.sandbox.limiter.clone();
        let limited = limiter.apply(&group, launcher, session.launch.limits);
        limited.context("the resource limits cannot be set")?;
        let processes = SessionProcesses { limiter, group, launcher };
        let gate = open_gate(&mut child, &session.variables(terminal.is_some())?).await?;
        let source = output_source(&mut child, terminal.as_ref())?;
        let mut inputs = streams.inputs;
        let sink = match &terminal {
            Some(terminal) => InputSink::Terminal(terminal),
            None => InputSink::Writer(gate),
        };
        let control = Control { processes: &processes, terminal: terminal.as_ref() };
        let forward_inputs = async {
            forward_inputs(&mut inputs, sink, &control).await;
            std::future::pending::<()>().await;
        };
        let mut forward_outputs = pin!(source.forward(streams.outputs));
        let mut is_complete = false;
        let status = {
            let mut forward_inputs = pin!(forward_inputs);
            let mut stopped = pin!(Self::until_stopped(session.environment, session.program));
            loop {
                tokio::select! {
                    status = child.wait() => break status?,
                    () = &mut forward_outputs, if !is_complete => is_complete = true,
                    () = &mut forward_inputs => {}
                    () = &mut stopped => {
                        processes.kill();
                        break child.wait().await?;
                    }
                }
            }
        };
        processes.kill();
        drop(device);
        if !is_complete {
            // The processes have ended, so their output ends, unless the caller does not read it.
            let _ = timeout(DRAIN_TIMEOUT, forward_outputs).await;
        }
        Ok(exit_status(status))
    }

    /// Returns the command before the arguments of a session.
    async fn launcher(
        &self,
        session: &SandboxSession<'_>,
        terminal: Option<&Terminal>,
        namespaces: impl Iterator<Item = String>,
    ) -> Result<Command> {
        let account = session.account.to_string();
        let mut command = Command::new(program_path("sh"));
        command.env_clear().env("PATH", PATH).current_dir("/").kill_on_drop(true);
        command.args(["-c", GATE, "gate"]);
        command.arg(terminal.map_or(Path::new(""), Terminal::path)).args(namespaces);
        command.args(["setsid", "prlimit"]);
        command.args(self.sandbox.limiter.rlimit_arguments(session.launch.limits, true));
        command.args(["--", "setpriv", "--reuid", &account, "--regid", &account]);
        command.args(["--clear-groups", "--no-new-privs"]);
        for kind in ["inh", "ambient"] {
            command.arg(format!("--{kind}-caps={CAPABILITIES}"));
        }
        command.arg(format!("--bounding-set={CAPABILITIES}")).args(["--", "nsenter"]);
        let network = self.sandbox.network.attach(session.environment).await?;
        if let Some(namespace) = network.namespace {
            command.arg(format!("--net=/run/netns/{namespace}"));
        }
        command.args(NAMESPACE_OPTIONS).args(["--preserve-credentials", "--", "setsid"]);
        if terminal.is_some() {
            command.arg("--ctty");
        }
        command.args(["/bin/sh", "-c", START, "sh"]);
        command.stdin(Stdio::piped());
        let output = || if terminal.is_some() { Stdio::null() } else { Stdio::piped() };
        command.stdout(output()).stderr(output());
        Ok(command)
    }
}

impl SandboxSession<'_> {
    /// Returns the variables of the program as a shell command in one line, for `printf %b`.
    fn variables(&self, has_terminal: bool) -> Result<String> {
        let mut variables = Processes::shell(self.environment, self.launch, "")?.variables;
        if has_terminal {
            variables.entry("TERM".to_owned()).or_insert_with(|| TERMINAL_TYPE.to_owned());
        }
        let mut script = String::new();
        for (name, value) in variables {
            writeln!(script, "export {name}='{}'", value.replace('\'', r"'\''"))?;
        }
        Ok(script.replace('\\', r"\\").replace('\n', r"\n"))
    }
}

/// Lets the command start, with the variables; returns its input.
async fn open_gate(child: &mut Child, variables: &str) -> Result<ChildStdin> {
    let mut gate = child.stdin.take().context("the start gate has no input")?;
    let text = format!("\n{variables}\n");
    gate.write_all(text.as_bytes()).await.context("the command ended at its start gate")?;
    Ok(gate)
}

fn output_source<'a>(
    child: &mut Child,
    terminal: Option<&'a Terminal>,
) -> Result<OutputSource<'a>> {
    if let Some(terminal) = terminal {
        return Ok(OutputSource::Terminal(terminal));
    }
    let stdout = child.stdout.take().context("no standard output")?;
    let stderr = child.stderr.take().context("no error output")?;
    Ok(OutputSource::Pipes(stdout, stderr))
}

/// Path of an open file of this process, for a process of the same account.
fn own_file(file: &std::fs::File) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

fn exit_status(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|it| 128 + it)).unwrap_or(-1)
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
