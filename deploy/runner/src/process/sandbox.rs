//! The sandbox of everything that a tenant controls: builds, programs, and the tools that touch their files
//! (git, tar). It is bubblewrap, started as the environment's account in the environment's network
//! namespace:
//!
//! ```text
//! setsid  sh (gate)  prlimit  nsenter|setpriv  bwrap  command
//! └──────── the runner's account ───────────┘  └── the environment's account ──┘
//! ```
//!
//! The gate opens when the process is recorded and its limits are in force. Variables of the tenant travel
//! through a pipe to bubblewrap, which sets them for the command only; no program before it sees them.

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
    limits::{Limiter, ResourceLimits},
    network::{EnvironmentNetwork, Network, name_servers},
    process_tree::{OrphanGuard, ProcessTree},
};
use crate::{IsolationPolicy, text::read_bounded};

/// Search path of the runner's own programs, and of deployed ones unless they set another.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Waits for a line, then becomes the arguments with the rest of the input as file descriptor 3. Ends if the
/// runner ends first.
const GATE: &str = r#"read -r _ && exec "$@" 3<&0 </dev/null"#;

/// The same for a command that reads the rest of the input itself.
const GATE_WITH_INPUT: &str = r#"read -r _ && exec "$@""#;

/// Bytes of a tool's output that are kept.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Standard input of a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Empty,
    /// [`Sandboxed::input`]. Variables of such a command are seen in its command line, so they hold no
    /// secret.
    Pipe,
}

/// A command to run inside.
pub(super) struct SandboxCommand<'a> {
    pub(super) environment: &'a EnvironmentDir,
    pub(super) mounts: Vec<Mount>,
    pub(super) working_dir: &'static str,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) arguments: Vec<String>,
    pub(super) limits: ResourceLimits,
    pub(super) input: Input,
}

/// Standard output and error of a command.
pub(super) struct Output {
    pub(super) stdout: Stdio,
    pub(super) stderr: Stdio,
}

/// A command that runs inside; it is killed when this is dropped, unless its guard is kept.
pub(super) struct Sandboxed {
    pub(super) child: Child,
    /// For [`Input::Pipe`].
    pub(super) input: Option<ChildStdin>,
    pub(super) process: ProcessTree,
    pub(super) guard: OrphanGuard,
}

impl Sandboxed {
    /// Waits for the end of the main program, and ends what it left in the background. Whoever reads the
    /// output does so at the same time: it ends only then.
    pub(super) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.process.kill();
        status
    }
}

/// Makes sandboxes.
pub(super) struct Sandbox {
    pub(super) accounts: Accounts,
    pub(super) network: Network,
    pub(super) limiter: Limiter,
    policy: IsolationPolicy,
    has_bubblewrap: bool,
    /// A file of name servers that environments reach; the machine's own may name its loopback.
    resolv_conf: PathBuf,
}

impl Sandbox {
    pub(super) async fn probe(
        root: &Path,
        accounts: Accounts,
        network: Network,
        limiter: Limiter,
        policy: IsolationPolicy,
    ) -> Result<Self> {
        let resolv_conf = root.join("resolv.conf");
        if network.is_separate() {
            let servers = name_servers().into_iter().map(|it| format!("nameserver {it}\n"));
            std::fs::write(&resolv_conf, servers.collect::<String>())?;
        } else {
            let text = std::fs::read("/etc/resolv.conf").unwrap_or_default();
            std::fs::write(&resolv_conf, text)?;
        }
        let has_bubblewrap = bubblewrap::works().await;
        Ok(Self { accounts, network, limiter, policy, has_bubblewrap, resolv_conf })
    }

    /// Guarantees that this machine cannot give, each with its remedy.
    pub(super) fn missing(&self) -> Vec<&'static str> {
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
        guarantees.into_iter().filter(|it| !it.0).map(|it| it.1).collect()
    }

    /// For operators, in at most 200 bytes.
    pub(super) fn description(&self) -> String {
        let sandbox = if self.has_bubblewrap { "bubblewrap" } else { "no sandbox" };
        let account =
            if self.accounts.are_separate() { "own account" } else { "the runner's account" };
        let network =
            if self.network.is_separate() { "own network" } else { "the machine's network" };
        format!("{sandbox}; {account}; {network}")
    }

    /// Refuses to run a tenant's code where the policy asks for more than this machine can give.
    fn admit(&self) -> Result<()> {
        let missing = self.missing();
        ensure!(
            self.has_bubblewrap,
            "bubblewrap does not work on this server, so nothing can be deployed to it; install the package \
             bubblewrap and allow user namespaces"
        );
        if self.policy == IsolationPolicy::Required && !missing.is_empty() {
            bail!(
                "this shared server runs no deployed code, because it cannot give {}; if all code is your \
                 own, start it with --allow-weak-isolation true",
                missing.join(", ")
            );
        }
        Ok(())
    }

    /// Starts a command inside. `name` tells its control group from others of the environment.
    pub(super) async fn spawn(
        &self,
        name: &str,
        command: SandboxCommand<'_>,
        output: Output,
    ) -> Result<Sandboxed> {
        self.admit()?;
        let environment = command.environment;
        let network = self.network.attach(environment).await?;
        let arguments = bubblewrap::arguments(&command, &self.resolv_conf)?;
        let mut gated = self.gated(&command, &network)?;
        let mut opening = b"\n".to_vec();
        match command.input {
            Input::Empty => {
                gated.args(["bwrap", "--args", "3", "--"]);
                opening.extend(arguments.iter().flat_map(|it| it.bytes().chain([0])));
            }
            Input::Pipe => {
                gated.arg("bwrap").args(&arguments).arg("--");
            }
        }
        gated.args(&command.arguments);
        gated.stdin(Stdio::piped()).stdout(output.stdout).stderr(output.stderr);
        let mut child = gated.spawn().context("setsid (util-linux) is not installed")?;
        let mut process =
            child.id().and_then(ProcessTree::of).context("the command ended at once")?;
        let guard = OrphanGuard::new(&process);
        environment.note_starting(&process)?;
        let group = format!("{}.{name}", environment.id());
        let limited = self.limiter.apply(&group, &process, command.limits);
        limited.context("the limits cannot be put into force")?;
        let mut gate = child.stdin.take().context("the gate is closed")?;
        gate.write_all(&opening).await.context("the command ended at its gate")?;
        let input = (command.input == Input::Pipe).then_some(gate);
        process.find_init().await;
        guard.keep();
        let guard = OrphanGuard::new(&process);
        environment.note_starting(&process)?;
        Ok(Sandboxed { child, input, process, guard })
    }

    /// Runs a tool inside to its end and returns its output; fails with its error output.
    pub(super) async fn run(
        &self,
        name: &str,
        command: SandboxCommand<'_>,
        timeout: Duration,
    ) -> Result<String> {
        let environment = command.environment;
        let tool = command.arguments.first().cloned().unwrap_or_default();
        let output = Output { stdout: Stdio::piped(), stderr: Stdio::piped() };
        let mut sandboxed = self.spawn(name, command, output).await?;
        let finished = tokio::time::timeout(timeout, collect(&mut sandboxed)).await;
        let finished = finished.with_context(|| {
            format!("{tool} did not end within {} minutes", timeout.as_secs() / 60)
        })??;
        environment.clear_starting().await;
        ensure!(finished.status.success(), "{}", finished.errors.trim());
        Ok(finished.output)
    }

    /// Everything up to bubblewrap: the gate, the limits of each process, the network, and the account.
    fn gated(
        &self,
        sandboxed: &SandboxCommand<'_>,
        network: &EnvironmentNetwork,
    ) -> Result<Command> {
        let gate = if sandboxed.input == Input::Empty { GATE } else { GATE_WITH_INPUT };
        let mut command = Command::new("setsid");
        command.env_clear().env("PATH", PATH).current_dir("/");
        // A session of its own has no terminal, so nothing inside can type into the operator's.
        command.args(["sh", "-c", gate, "gate", "prlimit"]);
        let account = self.accounts.get(sandboxed.environment);
        // Never the runner's own account where there are others.
        ensure!(
            account.is_some() || !self.accounts.are_separate(),
            "the data folder of the environment belongs to no account of an environment; was it restored \
             without its owner? Copy or destroy the environment"
        );
        let rlimits = self.limiter.rlimit_arguments(sandboxed.limits, account.is_some());
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

/// Result of a tool.
struct Finished {
    status: ExitStatus,
    output: String,
    errors: String,
}

async fn collect(sandboxed: &mut Sandboxed) -> Result<Finished> {
    let stdout = sandboxed.child.stdout.take().context("no standard output")?;
    let stderr = sandboxed.child.stderr.take().context("no error output")?;
    let (output, errors, status) = tokio::try_join!(
        read_bounded(stdout, OUTPUT_BYTES_MAX),
        read_bounded(stderr, OUTPUT_BYTES_MAX),
        sandboxed.wait(),
    )?;
    Ok(Finished { status, output, errors })
}
