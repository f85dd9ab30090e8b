//! How the limits of an environment are enforced: by a control group of its own, where the machine gives us
//! one, or per process.

use std::{fs, path::PathBuf};

use super::{group::Process, launch::Launch};

/// Where control groups live (version 2).
const ROOT: &str = "/sys/fs/cgroup";

/// What this machine allows.
#[derive(Clone, Debug)]
pub(super) enum Limits {
    /// A control group for each environment, under this one.
    Groups(PathBuf),
    /// Limits of each process.
    Processes,
}

impl Limits {
    /// What this machine allows, by trying it.
    pub(super) fn probe() -> Self {
        let ours = PathBuf::from(ROOT).join("tenantry");
        let controllers = fs::read_to_string(PathBuf::from(ROOT).join("cgroup.controllers"));
        let has = |name: &str| {
            controllers.as_ref().is_ok_and(|it| it.split_whitespace().any(|it| it == name))
        };
        let made = || {
            fs::create_dir_all(&ours)?;
            fs::write(PathBuf::from(ROOT).join("cgroup.subtree_control"), "+cpu +memory +pids")?;
            fs::write(ours.join("cgroup.subtree_control"), "+cpu +memory +pids")
        };
        if has("cpu") && has("memory") && has("pids") && made().is_ok() {
            return Self::Groups(ours);
        }
        Self::Processes
    }

    /// In words.
    pub(super) fn word(&self) -> String {
        match self {
            Self::Groups(_) => "cgroup v2: processor time, memory and processes",
            Self::Processes => {
                "rlimits: memory of each process, open files; processor time is not limited"
            }
        }
        .to_owned()
    }

    /// What a shell does before the program: limits that each process inherits.
    pub(super) fn commands(&self, launch: &Launch) -> String {
        let common = "ulimit -c 0; ulimit -n 4096; ";
        match self {
            Self::Processes if launch.memory_mb > 0 => {
                // Of data, not of addresses: many programs reserve far more of these than they use.
                format!("{common}ulimit -d {}; ", i64::from(launch.memory_mb) * 1_024)
            }
            _ => common.to_owned(),
        }
    }

    /// Puts a process that waits at its gate into the group of its environment.
    pub(super) fn apply(&self, id: String, process: &Process, launch: &Launch) {
        let Self::Groups(ours) = self else { return };
        let group = ours.join(id);
        let quota = (launch.cpu_cores * 100_000.0).round();
        let set = || {
            fs::create_dir_all(&group)?;
            if launch.memory_mb > 0 {
                let bytes = i64::from(launch.memory_mb) << 20;
                fs::write(group.join("memory.max"), bytes.to_string())?;
                fs::write(group.join("cpu.max"), format!("{quota} 100000"))?;
            }
            fs::write(group.join("pids.max"), "1024")?;
            fs::write(group.join("cgroup.procs"), process.pid.to_string())
        };
        if let Err(error) = set() {
            tracing::warn!(group = %group.display(), %error, "the limits are not in force");
        }
    }

    /// Removes the group of an environment in which nothing runs any more.
    pub(super) fn forget(&self, id: String) {
        if let Self::Groups(ours) = self {
            let _ = fs::remove_dir(ours.join(id));
        }
    }
}
