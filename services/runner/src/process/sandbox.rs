//! Sandbox of all commands that a tenant controls: builds, programs, and tools that process tenants' files
//! (git, tar). Commands run in bubblewrap, as the environment's account and in its network namespace:
//!
//! ```text
//! setsid  sh (gate)  prlimit  nsenter|setpriv  bwrap  command
//! └──────── the runner's account ───────────┘  └── the environment's account ──┘
//! ```
//!
//! The gate is a shell that waits for a line of input. The runner sends it when the process is recorded and
//! its resource limits are set. Environment variables of the tenant are passed to bubblewrap through a pipe
//! and set for the command only, because variables like `LD_PRELOAD` could affect the programs before it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin, Command},
};

use super::{
    account::Accounts,
    bubblewrap::{self, Mount},
    directory::EnvironmentDir,
    limits::{Limiter, MemoryKills, MemoryLimitExceeded, ResourceLimits},
    network::{EnvironmentNetwork, Network, name_servers},
    process_tree::{OrphanGuard, ProcessTree},
};
pub(super) use crate::system_program::{PATH, program_path};
use crate::{settings::IsolationPolicy, text::read_bounded};

/// Shell command of the gate: reads a line, then executes its arguments but the first, with the rest of the
/// input as file descriptor 3, and the file that its first argument names as 4. Ends if the runner ends
/// first.
const GATE: &str = r#"read -r _ && file=$1 && shift && exec "$@" 3<&0 </dev/null 4>"$file""#;

/// The same for commands that read the rest of the input as standard input.
const GATE_WITH_INPUT: &str = r#"read -r _ && file=$1 && shift && exec "$@" 4>"$file""#;

/// Arguments with which `bwrap` writes its status to file descriptor 4.
const STATUS_ARGUMENTS: [&str; 2] = ["--json-status-fd", "4"];

/// Maximum length of a tool's output and of its error output, in bytes.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Standard input of a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Empty,
    /// Pipe that the caller writes to by [`Sandboxed::input`]. It takes the place of the pipe to bubblewrap,
    /// so the command's environment variables are visible in the process table. They must not be secret.
    Pipe,
}

/// Network of a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NetworkAccess {
    /// The network of its environment.
    Environment,
    /// The network of this machine, for git that fetches from a loopback address.
    Machine,
}

/// Command to run in the sandbox.
pub(super) struct SandboxCommand<'a> {
    pub(super) environment: &'a EnvironmentDir,
    pub(super) mounts: Vec<Mount>,
    pub(super) working_dir: &'static str,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) arguments: Vec<String>,
    pub(super) limits: ResourceLimits,
    pub(super) input: Input,
    pub(super) network: NetworkAccess,
}

/// Standard output and error of a command.
pub(super) struct Output {
    pub(super) stdout: Stdio,
    pub(super) stderr: Stdio,
}

/// Running command in a sandbox. It is killed when this is dropped, unless [`OrphanGuard::keep`] was called.
pub(super) struct Sandboxed {
    pub(super) child: Child,
    /// Standard input; `None` for [`Input::Empty`].
    pub(super) input: Option<ChildStdin>,
    pub(super) process: ProcessTree,
    pub(super) guard: OrphanGuard,
}

impl Sandboxed {
    /// Waits for the end of the main program, and kills its background processes. Callers must read the
    /// output concurrently: it ends only after the background processes are killed, and a full pipe blocks
    /// the program.
    pub(super) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.process.kill_and_wait().await;
        status
    }
}

/// Creates sandboxes.
pub(crate) struct Sandbox {
    pub(super) accounts: Accounts,
    pub(super) network: Network,
    pub(super) limiter: Limiter,
    policy: IsolationPolicy,
    has_bubblewrap: bool,
    resolver: ResolverFiles,
}

/// Files of name resolution in sandboxes.
pub(super) struct ResolverFiles {
    /// `/etc/hosts`: `localhost`, and the host name of the sandbox.
    pub(super) hosts: PathBuf,
    /// `/etc/resolv.conf`. The machine's file may contain a loopback address, which sandboxes cannot reach.
    pub(super) resolv_conf: PathBuf,
}

impl Sandbox {
    /// Checks which isolation this machine supports.
    pub(super) async fn probe(
        root: &Path,
        accounts: Accounts,
        network: Network,
        limiter: Limiter,
        policy: IsolationPolicy,
    ) -> Result<Self> {
        let hosts = root.join("hosts");
        std::fs::write(&hosts, "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 environment\n")?;
        let resolv_conf = root.join("resolv.conf");
        if network.is_separate() {
            let servers = name_servers().into_iter().map(|it| format!("nameserver {it}\n"));
            std::fs::write(&resolv_conf, servers.collect::<String>())?;
        } else {
            let text = std::fs::read("/etc/resolv.conf").unwrap_or_default();
            std::fs::write(&resolv_conf, text)?;
        }
        let has_bubblewrap = bubblewrap::is_usable().await;
        Ok(Self {
            accounts,
            network,
            limiter,
            policy,
            has_bubblewrap,
            resolver: ResolverFiles { hosts, resolv_conf },
        })
    }

    /// Returns the isolation that this machine does not provide, each with a remedy.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let guarantees = [
            (
                self.has_bubblewrap,
                "a sandbox (install bubblewrap; user namespaces must be allowed)",
            ),
            (self.accounts.are_separate(), "an account for each environment (run as root)"),
            (
                self.network.is_separate(),
                "a network for each environment (run as root with CAP_NET_ADMIN; install iproute2 and \
                 nftables)",
            ),
            (
                self.limiter.is_complete(),
                "limits for all processes of a program together (make cgroups writable)",
            ),
        ];
        let missing = guarantees.into_iter().filter(|(is_given, _)| !is_given);
        missing.map(|(_, remedy)| remedy).collect()
    }

    /// Returns a description for operators, at most 200 bytes.
    pub(crate) fn description(&self) -> String {
        let sandbox = if self.has_bubblewrap { "bubblewrap" } else { "no sandbox" };
        let account =
            if self.accounts.are_separate() { "own account" } else { "the runner's account" };
        let network =
            if self.network.is_separate() { "own network" } else { "the machine's network" };
        format!("{sandbox}; {account}; {network}")
    }

    /// Fails if this machine does not provide the isolation that the policy requires.
    fn check_policy(&self) -> Result<()> {
        ensure!(
            self.has_bubblewrap,
            "nothing can be deployed to this server, because bubblewrap does not work on it; install the \
             package bubblewrap and allow user namespaces"
        );
        let missing = self.missing();
        if self.policy == IsolationPolicy::Required && !missing.is_empty() {
            bail!(
                "nothing can be deployed to this server, because it does not provide {}; if you trust all \
                 deployed code, start `tenantry` with --allow-weak-isolation true, or `tenantry-runner` \
                 without --require-isolation",
                missing.join(", ")
            );
        }
        Ok(())
    }

    /// Starts a command in the sandbox. `name` distinguishes its control group from others of the
    /// environment.
    pub(super) async fn spawn(
        &self,
        name: &str,
        command: SandboxCommand<'_>,
        output: Output,
    ) -> Result<Sandboxed> {
        self.check_policy()?;
        let environment = command.environment;
        let network = match command.network {
            NetworkAccess::Environment => self.network.attach(environment).await?,
            NetworkAccess::Machine => EnvironmentNetwork::of_machine(),
        };
        let files = environment.create_sandbox(&self.accounts, name).await?;
        let arguments = bubblewrap::arguments(&command, &self.resolver, &files.tmp)?;
        let mut launcher = self.launcher(&command, &network, &files.status)?;
        let mut gate_input = b"\n".to_vec();
        match command.input {
            Input::Empty => {
                launcher.arg("bwrap").args(STATUS_ARGUMENTS).args(["--args", "3", "--"]);
                gate_input.extend(arguments.iter().flat_map(|it| it.bytes().chain([0])));
            }
            Input::Pipe => {
                launcher.arg("bwrap").args(STATUS_ARGUMENTS).args(&arguments).arg("--");
            }
        }
        launcher.args(&command.arguments);
        launcher.stdin(Stdio::piped()).stdout(output.stdout).stderr(output.stderr);
        let mut child = launcher.spawn().context("cannot start setsid (util-linux)")?;
        let process = child.id().and_then(|it| ProcessTree::of(it, files.status));
        let mut process = process.context("the command ended immediately")?;
        let guard = OrphanGuard::new(&process);
        environment.write_starting_process(&process)?;
        let group = control_group(environment, name);
        let limited = self.limiter.apply(&group, process.pid(), command.limits);
        limited.context("the resource limits cannot be set")?;
        let mut gate = child.stdin.take().context("the start gate has no input")?;
        gate.write_all(&gate_input).await.context("the command ended at its start gate")?;
        let input = (command.input == Input::Pipe).then_some(gate);
        process.find_init().await;
        // `process` now contains the sandbox's init process, too: another guard and record replace the first.
        guard.keep();
        let guard = OrphanGuard::new(&process);
        environment.write_starting_process(&process)?;
        Ok(Sandboxed { child, input, process, guard })
    }

    /// Runs a tool in the sandbox and returns its output; fails with its error output.
    pub(super) async fn run(
        &self,
        name: &str,
        command: SandboxCommand<'_>,
        timeout: Duration,
    ) -> Result<String> {
        let environment = command.environment;
        let tool = command.arguments.first().cloned().unwrap_or_default();
        let limit_mb = command.limits.memory_mb;
        let output = Output { stdout: Stdio::piped(), stderr: Stdio::piped() };
        let mut sandboxed = self.spawn(name, command, output).await?;
        let result = tokio::time::timeout(timeout, collect(&mut sandboxed)).await;
        let result = result.with_context(|| {
            format!("{tool} did not end within {} minutes", timeout.as_secs() / 60)
        })??;
        environment.clear_starting_process().await;
        environment.remove_sandbox(name).await?;
        if !result.status.success() && self.memory_kills(environment, name).is_any() {
            bail!(MemoryLimitExceeded::Build { limit_mb });
        }
        ensure!(result.status.success(), "{}", result.errors.trim());
        Ok(result.output)
    }

    /// Returns the counter of the sandbox with this name.
    pub(super) fn memory_kills(&self, environment: &EnvironmentDir, sandbox: &str) -> MemoryKills {
        self.limiter.memory_kills(&control_group(environment, sandbox))
    }

    /// Returns the error of a program that exceeded its memory limit.
    pub(super) fn memory_limit_exceeded(
        &self,
        environment: &EnvironmentDir,
        process: &ProcessTree,
        limits: ResourceLimits,
    ) -> Option<MemoryLimitExceeded> {
        let is_exceeded = self.memory_kills(environment, process.sandbox_name()?).is_any();
        is_exceeded.then_some(MemoryLimitExceeded::Program { limit_mb: limits.memory_mb })
    }

    /// Returns the command that precedes bubblewrap: gate, resource limits per process, network, account.
    fn launcher(
        &self,
        sandbox_command: &SandboxCommand<'_>,
        network: &EnvironmentNetwork,
        status_file: &Path,
    ) -> Result<Command> {
        let gate = if sandbox_command.input == Input::Empty { GATE } else { GATE_WITH_INPUT };
        let mut command = Command::new(program_path("setsid"));
        command.env_clear().env("PATH", PATH).current_dir("/");
        // `setsid` detaches from the controlling terminal, into which programs could inject input (TIOCSTI).
        command.args(["sh", "-c", gate, "gate"]).arg(status_file).arg("prlimit");
        let account = self.accounts.get(sandbox_command.environment);
        // A command must not run as the runner's account (root) where environments have their own.
        ensure!(
            account.is_some() || !self.accounts.are_separate(),
            "the owner of the environment's data directory is no account of an environment, possibly because \
             the directory was restored without its owner; copy or destroy the environment"
        );
        let rlimits = self.limiter.rlimit_arguments(sandbox_command.limits, account.is_some());
        command.args(rlimits).arg("--");
        match (account, &network.namespace) {
            (Some(account), Some(namespace)) => {
                command.arg("nsenter").arg(format!("--net=/run/netns/{namespace}"));
                command.args(["--setgid", &account.to_string(), "--setuid", &account.to_string()]);
                command.arg("--");
            }
            (Some(account), None) => {
                command.args([
                    "setpriv",
                    &format!("--reuid={account}"),
                    &format!("--regid={account}"),
                    "--clear-groups",
                    "--",
                ]);
            }
            (None, _) => {}
        }
        Ok(command)
    }
}

/// Name of the control group of a sandbox.
fn control_group(environment: &EnvironmentDir, sandbox: &str) -> String {
    format!("{}.{sandbox}", environment.id())
}

/// Result of a tool.
struct ToolResult {
    status: ExitStatus,
    output: String,
    errors: String,
}

/// Waits for a tool and collects its output.
async fn collect(sandboxed: &mut Sandboxed) -> Result<ToolResult> {
    let stdout = sandboxed.child.stdout.take().context("no standard output")?;
    let stderr = sandboxed.child.stderr.take().context("no error output")?;
    let (output, errors, status) = tokio::try_join!(
        read_bounded(stdout, OUTPUT_BYTES_MAX),
        read_bounded(stderr, OUTPUT_BYTES_MAX),
        sandboxed.wait(),
    )?;
    Ok(ToolResult { status, output, errors })
}
