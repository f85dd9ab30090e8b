//! The sandbox of a run: network, mount and process namespaces of its own. Everything that a run starts or
//! mounts ends with them, also after a panic or a kill.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::control_group;

/// Argument that a program in the sandbox gets first, before the folder of the run.
pub(crate) const INSIDE: &str = "--inside";

/// Starts this program again in a sandbox, with a temporary folder, and waits for its end.
pub(crate) fn enter(arguments: &[String]) -> Result<ExitStatus> {
    ensure!(rustix::process::geteuid().is_root(), "network namespaces and mounts need root");
    let folder = tempfile::Builder::new().prefix("tenantry-chaos-").tempdir()?;
    let program = std::env::current_exe()?;
    // `unshare` ends with this process, the first process of the process namespace with `unshare`
    // (`--kill-child`), and all others with that.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]);
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.arg(program).arg(INSIDE).arg(folder.path()).args(arguments);
    let mut child = command.spawn().context("setpriv and unshare (util-linux) start")?;
    let status = child.wait()?;
    control_group::remove_all(folder.path());
    let logs = std::env::current_exe()?.with_file_name("chaos-logs");
    keep_logs(folder.path(), &logs).context("the logs cannot be copied")?;
    folder.close().context("the folder of the run cannot be removed")?;
    Ok(status)
}

/// Copies the logs of a run, in place of those of the run before.
fn keep_logs(folder: &Path, logs: &Path) -> std::io::Result<()> {
    if logs.exists() {
        std::fs::remove_dir_all(logs)?;
    }
    std::fs::create_dir(logs)?;
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|it| it == "log") {
            std::fs::copy(&path, logs.join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}

/// Prepares the sandbox: an empty `/run`, host names, and no DNS server.
pub(crate) fn prepare(folder: &Path, hosts: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
    for (name, text) in [("hosts", hosts), ("resolv.conf", "nameserver 127.0.0.1\n")] {
        let file = folder.join(name);
        std::fs::write(&file, text)?;
        run("mount", &["--bind", &text_of(&file), &format!("/etc/{name}")])?;
    }
    Ok(())
}

/// Runs a program to its end; an error contains its output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{program} starts"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{program} {}` failed: {error}", arguments.join(" "));
    Ok(())
}

/// Path as text, for arguments.
pub(crate) fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Path of a program of this workspace, which is beside this one.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.exists(), "{} is not built; run `cargo xtask chaos`", path.display());
    Ok(path)
}
