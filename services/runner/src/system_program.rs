//! Programs of the machine that the runner starts with its own rights: ip(8), nft(8) and others.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{io::AsyncWriteExt, process::Command};

/// Time limit of a program.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// Environment variable `PATH` of programs that the runner starts; the default for deployed programs.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Path of a program of this machine, or its name if it is not installed. With a path the standard library
/// starts the program by posix_spawn(3); with a name and a new `PATH` it forks, which copies the page
/// tables of this process.
pub(crate) fn program_path(name: &str) -> PathBuf {
    let mut candidates = PATH.split(':').map(|it| Path::new(it).join(name));
    candidates.find(|it| it.exists()).unwrap_or_else(|| name.into())
}

/// Applies nftables rules.
pub(crate) async fn nft(rules: &str) -> Result<()> {
    run_with_input("nft", &["-f", "-"], rules).await.map(|_| ())
}

/// Runs a program and returns its output; fails with its error output.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> Result<String> {
    run_with_input(program, arguments, "").await
}

/// Runs a program with standard input and returns its output; fails with its error output.
pub(crate) async fn run_with_input(
    program: &str,
    arguments: &[&str],
    input: &str,
) -> Result<String> {
    let mut command = Command::new(program_path(program));
    command.args(arguments).env_clear().env("PATH", PATH).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{program} is not installed"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = tokio::time::timeout(COMMAND_TIMEOUT, child.wait_with_output()).await;
    let output = output.with_context(|| {
        format!("{program} did not end within {} s", COMMAND_TIMEOUT.as_secs())
    })??;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
