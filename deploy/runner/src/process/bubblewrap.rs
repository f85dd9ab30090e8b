//! Bubblewrap (`bwrap`): its arguments, and whether it works here.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::sandbox::{PATH, SandboxCommand};

/// Files of the machine that programs may read, where they exist.
const READABLE: [&str; 14] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/java",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/perl",
    "/etc/pki",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl",
];

/// Size of `/tmp`, which lies in memory.
const TMP_BYTES: u64 = 256 << 20;

/// Rights to a mounted folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    ReadOnly,
    ReadWrite,
}

/// A folder or file of the machine at a place inside.
#[derive(Clone, Debug)]
pub(super) struct Mount {
    pub(super) source: PathBuf,
    pub(super) target: String,
    pub(super) access: Access,
}

impl Mount {
    pub(super) fn new(
        source: impl Into<PathBuf>,
        target: impl Into<String>,
        access: Access,
    ) -> Self {
        Self { source: source.into(), target: target.into(), access }
    }
}

/// Arguments of bubblewrap: namespaces, mounts, and variables.
pub(super) fn arguments(command: &SandboxCommand<'_>, resolv_conf: &Path) -> Result<Vec<String>> {
    let mut arguments: Vec<String> = [
        "--unshare-user",
        "--disable-userns",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--hostname",
        "environment",
        "--clearenv",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--dir",
        "/run",
        "--size",
    ]
    .map(str::to_owned)
    .into();
    arguments.extend([TMP_BYTES.to_string(), "--tmpfs".to_owned(), "/tmp".to_owned()]);
    arguments.extend(system_mounts());
    let passwd = command.environment.passwd();
    let mounts = [
        Mount::new(passwd, "/etc/passwd", Access::ReadOnly),
        Mount::new(resolv_conf, "/etc/resolv.conf", Access::ReadOnly),
    ];
    for mount in mounts.iter().chain(&command.mounts) {
        let flag = match mount.access {
            Access::ReadOnly => "--ro-bind",
            Access::ReadWrite => "--bind",
        };
        arguments.extend([flag.to_owned(), path_text(&mount.source)?, mount.target.clone()]);
    }
    for (name, value) in &command.variables {
        arguments.extend(["--setenv".to_owned(), name.clone(), value.clone()]);
    }
    arguments.extend(["--chdir".to_owned(), command.working_dir.to_owned()]);
    // A zero byte would begin another argument.
    let is_whole = |it: &String| !it.contains('\0');
    ensure!(arguments.iter().all(is_whole), "a variable or path holds a zero byte");
    Ok(arguments)
}

/// The programs and libraries of the machine, read-only.
fn system_mounts() -> Vec<String> {
    let mut arguments = ["--ro-bind", "/usr", "/usr"].map(str::to_owned).to_vec();
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        let path = format!("/{name}");
        match std::fs::read_link(&path) {
            Ok(target) => {
                let target = target.to_string_lossy().into_owned();
                arguments.extend(["--symlink".to_owned(), target, path]);
            }
            Err(_) => arguments.extend(["--ro-bind-try".to_owned(), path.clone(), path]),
        }
    }
    for path in READABLE {
        arguments.extend(["--ro-bind-try", path, path].map(str::to_owned));
    }
    arguments
}

/// True if an account without rights can make a sandbox.
pub(super) async fn works() -> bool {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-user", "--disable-userns", "--unshare-pid", "--ro-bind", "/", "/"]);
    command.args(["--proc", "/proc", "--", "true"]).env_clear().env("PATH", PATH);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if rustix::process::geteuid().is_root() {
        // As an account without rights, like everything that is deployed.
        command.uid(65_534).gid(65_534);
    }
    command.current_dir("/").status().await.is_ok_and(|it| it.success())
}

fn path_text(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text.to_owned())
}
