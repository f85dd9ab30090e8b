//! Start time and idle memory of the all-in-one program.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{memory::resident_mib_of, print};

/// Starts the program with an empty data directory, then again with the existing one.
pub(crate) async fn run() -> Result<()> {
    tokio::task::spawn_blocking(|| {
        let data_dir = tempfile::tempdir()?;
        std::fs::set_permissions(data_dir.path(), std::fs::Permissions::from_mode(0o755))?;
        let (first_start, child) = start(data_dir.path())?;
        stop(child)?;
        let (second_start, child) = start(data_dir.path())?;
        // Idle memory includes that of the background tasks.
        std::thread::sleep(Duration::from_secs(2));
        let memory = resident_mib_of(child.id())?;
        stop(child)?;
        print(&format!(
            "| start with an empty data directory | {:.2} s | | | ≤ 6 s |\n",
            first_start.as_secs_f64()
        ));
        print(&format!(
            "| start with an existing data directory | {:.2} s | | | ≤ 2 s |\n",
            second_start.as_secs_f64()
        ));
        print(&format!("| resident memory, idle | {memory} MiB | | | ≤ 64 MiB |\n"));
        Ok(())
    })
    .await?
}

/// Starts the program; returns the time until it prints that it is ready.
fn start(data_dir: &Path) -> Result<(Duration, Child)> {
    let program = std::env::current_exe()?.with_file_name("tenantry");
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(["--listen", "127.0.0.1:0", "--log", "error", "--data-dir"])
        .arg(data_dir)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the program; run `cargo xtask bench`, which builds it")?;
    let mut lines =
        BufReader::new(child.stdout.take().context("the program has no standard output")?).lines();
    lines
        .find(|it| it.as_ref().is_ok_and(|it| it.contains("listens on")))
        .context("the program ended before it was ready")??;
    Ok((started.elapsed(), child))
}

fn stop(mut child: Child) -> Result<()> {
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
    child.wait()?;
    Ok(())
}
