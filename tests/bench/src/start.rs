//! How long the all-in-one takes until it serves, and how much memory it holds when idle.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::say;

/// Starts it on a new data directory, then on the same again.
pub(crate) async fn run() -> Result<()> {
    tokio::task::spawn_blocking(|| {
        let folder = tempfile::tempdir()?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let (new, child) = start(folder.path())?;
        stop(child)?;
        let (warm, child) = start(folder.path())?;
        // Idle, but with its background tasks.
        std::thread::sleep(Duration::from_secs(2));
        let memory = resident_mib(&child)?;
        stop(child)?;
        say(&format!(
            "| start on a new data directory | {:.2} s | | | ≤ 6 s |\n",
            new.as_secs_f64()
        ));
        say(&format!("| start on an existing one | {:.2} s | | | ≤ 2 s |\n", warm.as_secs_f64()));
        say(&format!("| resident memory, idle | {memory} MiB | | | ≤ 64 MiB |\n"));
        Ok(())
    })
    .await?
}

fn start(folder: &Path) -> Result<(Duration, Child)> {
    let program = std::env::current_exe()?.with_file_name("tenantry");
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(["--listen", "127.0.0.1:0", "--log", "error", "--data-dir"])
        .arg(folder)
        .stdout(Stdio::piped())
        .spawn()
        .context("`cargo xtask bench` builds the program")?;
    let mut lines = BufReader::new(child.stdout.take().context("an output")?).lines();
    lines
        .find(|it| it.as_ref().is_ok_and(|it| it.contains("serves on")))
        .context("it did not serve")??;
    Ok((started.elapsed(), child))
}

fn stop(mut child: Child) -> Result<()> {
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
    child.wait()?;
    Ok(())
}

fn resident_mib(child: &Child) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let line =
        status.lines().find_map(|it| it.strip_prefix("VmRSS:")).context("a resident size")?;
    let kib: u64 = line.split_whitespace().next().context("a number")?.parse()?;
    Ok(kib / 1024)
}
