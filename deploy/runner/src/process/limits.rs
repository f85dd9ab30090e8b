//! Resource limits of what is deployed: a control group for each program where the machine has them
//! (version 2 or 1), resource limits of each process everywhere.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use api::project::Resources;
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use super::process_tree::ProcessTree;

/// Mount point of control groups.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Processes and threads of one program.
const PROCESSES_MAX: u32 = 1_024;

/// Microseconds over which processor time is shared out (the kernel's default).
const CPU_PERIOD_US: u32 = 100_000;

/// Limits of one program or build.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ResourceLimits {
    pub(super) memory_mb: u32,
    pub(super) cpu_cores: f64,
    /// Bounds each file; the sum of all files is measured (`usage`).
    pub(super) disk_gb: u32,
}

impl ResourceLimits {
    /// The limits of a lease; the smallest environment's where it names none.
    pub(super) fn of(resources: Option<Resources>) -> Self {
        let it = resources.unwrap_or_default();
        Self {
            memory_mb: u32::try_from(it.memory_mb).unwrap_or(0).max(256),
            cpu_cores: it.cpu_cores.max(0.25),
            disk_gb: u32::try_from(it.disk_gb).unwrap_or(0).max(1),
        }
    }

    fn memory_bytes(self) -> u64 {
        u64::from(self.memory_mb) << 20
    }

    pub(super) fn disk_bytes(self) -> u64 {
        u64::from(self.disk_gb) << 30
    }
}

/// Means of enforcing limits on this machine.
#[derive(Clone, Debug)]
pub(super) enum Limiter {
    /// A control group (version 2) for each program, below this one.
    CgroupV2(PathBuf),
    /// The same with one hierarchy for each controller (version 1).
    CgroupV1,
    /// Resource limits of each process only (setrlimit(2)).
    Rlimits,
}

/// Controllers that are needed.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

impl Limiter {
    /// The best of what this machine allows, found by trying.
    pub(super) fn probe() -> Self {
        let root = Path::new(CGROUP_ROOT);
        let parent = root.join("tenantry");
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let has = |name: &&str| controllers.split_whitespace().any(|it| it == *name);
        let enable = || {
            fs::create_dir_all(&parent)?;
            fs::write(root.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
            fs::write(parent.join("cgroup.subtree_control"), "+cpu +memory +pids")
        };
        if CONTROLLERS.iter().all(has) && enable().is_ok() {
            return Self::CgroupV2(parent);
        }
        let hierarchies = CONTROLLERS.map(|it| root.join(it));
        let make = |it: &PathBuf| {
            let parent = it.join("tenantry");
            // Runners in containers have equal process ids, and one process may have two runners.
            let group = parent.join(format!("probe-{}", chassis::id::new()));
            it.join("cgroup.procs").exists()
                && fs::create_dir_all(&parent).is_ok()
                && fs::create_dir(&group).is_ok()
                && fs::remove_dir(&group).is_ok()
        };
        if hierarchies.iter().all(make) { Self::CgroupV1 } else { Self::Rlimits }
    }

    /// For operators.
    pub(super) fn description(&self) -> &'static str {
        match self {
            Self::CgroupV2(_) => "cgroup v2: processor time, memory and processes of each program",
            Self::CgroupV1 => "cgroup v1: processor time, memory and processes of each program",
            Self::Rlimits => {
                "rlimits: memory of each process, processes; processor time is not limited"
            }
        }
    }

    /// True if all that a program starts shares one limit.
    pub(super) fn is_complete(&self) -> bool {
        !matches!(self, Self::Rlimits)
    }

    /// Arguments of `prlimit` (util-linux) for the first process of a program. The number of processes is
    /// counted by account, so it is limited only for an account that runs nothing else.
    pub(super) fn rlimit_arguments(
        &self,
        limits: ResourceLimits,
        own_account: bool,
    ) -> Vec<String> {
        let mut arguments = vec![
            format!("--core={}", at_most(Resource::Core, 0)),
            format!("--nofile={}", at_most(Resource::Nofile, 4_096)),
            format!("--fsize={}", at_most(Resource::Fsize, limits.disk_bytes())),
        ];
        if own_account {
            let processes = at_most(Resource::Nproc, u64::from(PROCESSES_MAX));
            arguments.push(format!("--nproc={processes}"));
        }
        if !self.is_complete() {
            // Of data, not of addresses: many programs reserve far more of these than they use.
            arguments.push(format!("--data={}", at_most(Resource::Data, limits.memory_bytes())));
        }
        arguments
    }

    /// Puts a process that waits at its gate, and so all that it starts, into a control group of its own.
    pub(super) fn apply(
        &self,
        group: &str,
        process: &ProcessTree,
        limits: ResourceLimits,
    ) -> io::Result<()> {
        let period = f64::from(CPU_PERIOD_US);
        let quota = (limits.cpu_cores * period).round().to_string();
        let (memory, processes) = (limits.memory_bytes().to_string(), PROCESSES_MAX.to_string());
        match self {
            Self::CgroupV2(parent) => {
                let folder = parent.join(group);
                fs::create_dir_all(&folder)?;
                fs::write(folder.join("memory.max"), memory)?;
                // Without swap of its own the limit is what it says; a kernel without swap has no such file.
                let _ = fs::write(folder.join("memory.swap.max"), "0");
                fs::write(folder.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}"))?;
                fs::write(folder.join("pids.max"), processes)?;
                fs::write(folder.join("cgroup.procs"), process.pid().to_string())
            }
            Self::CgroupV1 => {
                let folders = CONTROLLERS.map(|it| v1_parent(it).join(group));
                for folder in &folders {
                    fs::create_dir_all(folder)?;
                }
                let [cpu, memory_folder, pids] = &folders;
                fs::write(memory_folder.join("memory.limit_in_bytes"), memory)?;
                fs::write(cpu.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
                fs::write(cpu.join("cpu.cfs_quota_us"), quota)?;
                fs::write(pids.join("pids.max"), processes)?;
                for folder in &folders {
                    fs::write(folder.join("cgroup.procs"), process.pid().to_string())?;
                }
                Ok(())
            }
            Self::Rlimits => Ok(()),
        }
    }

    /// Removes the control groups of an environment in which nothing runs any more.
    pub(super) fn remove_empty(&self, environment: &str) {
        let parents = match self {
            Self::CgroupV2(parent) => vec![parent.clone()],
            Self::CgroupV1 => CONTROLLERS.map(v1_parent).to_vec(),
            Self::Rlimits => vec![],
        };
        for entry in parents.iter().filter_map(|it| fs::read_dir(it).ok()).flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(environment) {
                // Fails while a process is in it.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// A limit that this process may set: not above its own.
fn at_most(resource: Resource, wanted: u64) -> u64 {
    getrlimit(resource).maximum.map_or(wanted, |it| it.min(wanted))
}

fn v1_parent(controller: &str) -> PathBuf {
    Path::new(CGROUP_ROOT).join(controller).join("tenantry")
}
