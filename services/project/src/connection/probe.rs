//! Calls of Git servers: `git ls-remote` on a repository, and HTTP clients. The address is checked before,
//! and the program connects to the checked address only.

use std::{
    net::IpAddr,
    path::PathBuf,
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

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
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    sync::Semaphore,
};

use super::address::AddressChecker;

/// Time limit of a test, without the time in which it waits for others.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum number of tests at the same time.
const CONCURRENT_MAX: usize = 8;

/// Environment variable `PATH` of git and ssh.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Maximum length of the error output of git that a message contains, in bytes.
const ERROR_BYTES_MAX: usize = 500;

/// Largest output of git that is read, in bytes: about 50,000 branches.
const OUTPUT_BYTES_MAX: u64 = 4 << 20;

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
        let listed = self.ls_remote(probe, &["--quiet"], &["HEAD"]).await?;
        Ok(listed.map(|it| it.host_key))
    }

    /// Returns the output of `git ls-remote` with the branches of a repository and the target of `HEAD`.
    pub(crate) async fn branches(&self, probe: &Probe) -> Result<Result<String, TestFailure>> {
        let listed = self.ls_remote(probe, &["--symref"], &["HEAD", "refs/heads/*"]).await?;
        Ok(listed.map(|it| it.output))
    }

    async fn ls_remote(
        &self,
        probe: &Probe,
        options: &[&str],
        patterns: &[&str],
    ) -> Result<Result<Listed, TestFailure>> {
        let _slot = self.slots.acquire().await.context("the tests of connections have ended")?;
        let address = match self.addresses.addresses(&probe.endpoint).await {
            Ok(addresses) => addresses[0],
            Err(failure) => return Ok(Err(failure)),
        };
        // A private directory: `HOME` of git.
        let home = tempfile::tempdir_in(&self.folder).context("a directory for git")?;
        let mut command = command(probe, address);
        command.arg("ls-remote").args(options).arg("--").arg(&probe.url).args(patterns);
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
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        if probe.endpoint.scheme != Scheme::Ssh {
            return Ok(Ok(Listed { output, host_key: String::new() }));
        }
        let known_hosts = std::fs::read_to_string(home.path().join(KNOWN_HOSTS));
        let host_key = known_hosts.ok().and_then(|it| host_key(&it));
        let host_key = host_key.ok_or_else(|| anyhow::anyhow!("ssh stored no host key"))?;
        Ok(Ok(Listed { output, host_key }))
    }

    /// Returns the checker of the addresses of connections.
    pub(super) fn addresses(&self) -> &AddressChecker {
        &self.addresses
    }
}

/// Result of `git ls-remote`.
struct Listed {
    output: String,
    /// Host key of the server; empty for HTTPS.
    host_key: String,
}

/// Returns a git command without its directories and subcommand.
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
    command.args(probe.credential.arguments());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    command
}

/// Runs git to its end; kills it and its child processes at the time limit, or if its output is too large.
async fn run(mut command: Command) -> Result<Output, TestFailure> {
    let mut child = command.spawn().map_err(|error| {
        TestFailure::Server(format!(
            "git cannot be started ({error}); install git and openssh-client where the project service runs"
        ))
    })?;
    let pid = child.id();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complete = async {
        let (stdout, stderr, status) =
            tokio::try_join!(read_limited(stdout), read_limited(stderr), child.wait())?;
        Ok::<_, std::io::Error>(Output { status, stdout, stderr })
    };
    let failure = match tokio::time::timeout(TIMEOUT, complete).await {
        Ok(Ok(output)) => return Ok(output),
        Ok(Err(error)) => format!("git failed: {error}"),
        Err(_) => format!("no answer within {} seconds", TIMEOUT.as_secs()),
    };
    kill_group(pid);
    Err(TestFailure::Server(failure))
}

/// Reads an output of git to its end; fails if it is too large.
async fn read_limited(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut output = vec![];
    let Some(pipe) = pipe else { return Ok(output) };
    pipe.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut output).await?;
    let is_complete = output.len() as u64 <= OUTPUT_BYTES_MAX;
    is_complete.then_some(output).ok_or_else(|| std::io::Error::other("its output is too large"))
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
