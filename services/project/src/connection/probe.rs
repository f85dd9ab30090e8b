//! Tests of Git connections: `git ls-remote` on a repository. The address is checked before, and git connects
//! to the checked address only.

use std::{net::IpAddr, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use anyhow::Context;
use chassis::{
    Result,
    foreign_text::clean_block,
    git_credential::{GitCredential, HOST_KEY_REFUSED, KNOWN_HOSTS},
};
use project_rules::{
    connection::{TestFailure, git::Probe},
    repository::Scheme,
};
use tokio::{process::Command, sync::Semaphore};

use super::address::AddressChecker;

/// Time limit of a test, without the time in which it waits for others.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum number of tests at the same time.
const CONCURRENT_MAX: usize = 8;

/// Environment variable `PATH` of git and ssh.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Maximum length of the error output of git that a message contains, in bytes.
const ERROR_BYTES_MAX: usize = 500;

/// Tester of connections.
pub(crate) struct Prober {
    addresses: Arc<AddressChecker>,
    /// Directory for temporary files.
    folder: PathBuf,
    slots: Semaphore,
}

impl Prober {
    pub(crate) fn new(addresses: Arc<AddressChecker>, folder: PathBuf) -> Self {
        Self { addresses, folder, slots: Semaphore::new(CONCURRENT_MAX) }
    }

    /// Tests settings. Returns the host key of the server; empty for HTTPS.
    pub(crate) async fn test(&self, probe: &Probe) -> Result<Result<String, TestFailure>> {
        let _slot = self.slots.acquire().await.context("the tests of connections have ended")?;
        let address = match self.addresses.addresses(&probe.endpoint).await {
            Ok(addresses) => addresses[0],
            Err(failure) => return Ok(Err(failure)),
        };
        // A private directory: `HOME` of git.
        let home = tempfile::tempdir_in(&self.folder).context("a directory for git")?;
        let mut command = command(probe, address);
        command.env("HOME", home.path()).env("TMPDIR", home.path()).current_dir(home.path());
        let output = match run(command).await {
            Ok(output) => output,
            Err(failure) => return Ok(Err(failure)),
        };
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            if probe.has_host_key && text.contains(HOST_KEY_REFUSED) {
                return Ok(Err(TestFailure::HostKeyChanged));
            }
            let text = clean_block(probe.credential.mask(&text).trim(), ERROR_BYTES_MAX);
            return Ok(Err(TestFailure::Server(text)));
        }
        if probe.endpoint.scheme != Scheme::Ssh {
            return Ok(Ok(String::new()));
        }
        let known_hosts = std::fs::read_to_string(home.path().join(KNOWN_HOSTS));
        let host_key = known_hosts.ok().and_then(|it| host_key(&it));
        Ok(Ok(host_key.ok_or_else(|| anyhow::anyhow!("ssh stored no host key"))?))
    }
}

/// Returns the git command of a test, without its directories.
fn command(probe: &Probe, address: IpAddr) -> Command {
    let endpoint = &probe.endpoint;
    let resolve = format!("{}:{}:{address}", endpoint.host, endpoint.port);
    let configuration = [
        ("http.curloptResolve", resolve.as_str()),
        ("http.followRedirects", "false"),
        ("http.proxy", ""),
    ];
    let mut command = Command::new("git");
    command.env_clear().env("PATH", PATH);
    command.env("LANG", "C.UTF-8").env("GIT_TERMINAL_PROMPT", "0");
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.env("GIT_ALLOW_PROTOCOL", endpoint.scheme.as_str());
    command.env("GIT_CONFIG_COUNT", configuration.len().to_string());
    for (index, (name, value)) in configuration.into_iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{index}"), name);
        command.env(format!("GIT_CONFIG_VALUE_{index}"), value);
    }
    command.envs(probe.credential.variables());
    let (name, value) = GitCredential::ssh_address(address);
    command.env(name, value);
    command.args(probe.credential.arguments()).args([
        "ls-remote",
        "--quiet",
        "--",
        &probe.url,
        "HEAD",
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    command
}

/// Runs git to its end; kills it and its child processes at the time limit.
async fn run(mut command: Command) -> Result<std::process::Output, TestFailure> {
    let child = command.spawn().map_err(|error| {
        TestFailure::Server(format!(
            "git cannot be started ({error}); install git and openssh-client where the project service runs"
        ))
    })?;
    let pid = child.id();
    if let Ok(output) = tokio::time::timeout(TIMEOUT, child.wait_with_output()).await {
        return output.map_err(|it| TestFailure::Server(format!("git failed: {it}")));
    }
    kill_group(pid);
    Err(TestFailure::Server(format!("no answer within {} seconds", TIMEOUT.as_secs())))
}

/// Kills the process group of a child process, which leads it; `None` for a process that has ended.
pub(super) fn kill_group(leader: Option<u32>) {
    let group =
        leader.and_then(|it| i32::try_from(it).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        // Fails if it has just ended.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

/// Returns the key in the first line of a `known_hosts` file: `<alias> <type> <base64>`.
pub(super) fn host_key(known_hosts: &str) -> Option<String> {
    let mut words = known_hosts.lines().next()?.split(' ').skip(1);
    Some(format!("{} {}", words.next()?, words.next()?))
}
