//! Bubblewrap (`bwrap`, an unprivileged sandbox): its arguments, and a check that it works on this machine.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::sandbox::{PATH, ResolverFiles, SandboxCommand};

/// Files of the machine that sandboxed programs may read, if they exist.
const READABLE_PATHS: [&str; 17] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/fonts",
    "/etc/java",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/perl",
    "/etc/php",
    "/etc/pki",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl",
];

/// Access mode of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    ReadOnly,
    ReadWrite,
}

/// Bind mount of a file or directory of the machine into the sandbox.
#[derive(Clone, Debug)]
pub(super) struct Mount {
    pub(super) source: PathBuf,
    /// Path in the sandbox.
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

/// Returns the arguments of `bwrap` for a command: namespaces, mounts and environment variables. `resolver`
/// has the files of name resolution, `tmp` is the directory that is mounted at `/tmp`.
pub(super) fn arguments(
    command: &SandboxCommand<'_>,
    resolver: &ResolverFiles,
    tmp: &Path,
) -> Result<Vec<String>> {
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
    ]
    .map(str::to_owned)
    .into();
    arguments.extend(system_mounts());
    let (passwd, group) = (command.environment.passwd(), command.environment.group());
    let mounts = [
        Mount::new(passwd, "/etc/passwd", Access::ReadOnly),
        Mount::new(group, "/etc/group", Access::ReadOnly),
        Mount::new(&resolver.hosts, "/etc/hosts", Access::ReadOnly),
        Mount::new(&resolver.resolv_conf, "/etc/resolv.conf", Access::ReadOnly),
        Mount::new(tmp, "/tmp", Access::ReadWrite),
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
    // `bwrap --args` separates arguments by NUL bytes, so a NUL byte would inject an argument.
    let has_nul = arguments.iter().any(|it| it.contains('\0'));
    ensure!(!has_nul, "an environment variable or path contains a NUL byte");
    Ok(arguments)
}

/// Returns the arguments that mount programs and libraries of the machine read-only.
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
    for path in READABLE_PATHS {
        arguments.extend(["--ro-bind-try", path, path].map(str::to_owned));
    }
    arguments
}

/// Returns true if an unprivileged account can create a sandbox.
pub(super) async fn is_usable() -> bool {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-user", "--disable-userns", "--unshare-pid", "--ro-bind", "/", "/"]);
    command.args(["--proc", "/proc", "--", "true"]).env_clear().env("PATH", PATH);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if rustix::process::geteuid().is_root() {
        // Deployed code runs unprivileged, so that is what is checked: as `nobody`.
        command.uid(65_534).gid(65_534);
    }
    command.current_dir("/").status().await.is_ok_and(|it| it.success())
}

fn path_text(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text.to_owned())
}
