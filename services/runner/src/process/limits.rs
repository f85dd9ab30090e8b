//! Resource limits of deployed code: a control group for each program if the machine supports them (version 2
//! or 1), and resource limits per process (setrlimit(2)) in any case.

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

/// Maximum number of processes and threads of one program.
const PROCESSES_MAX: u32 = 1_024;

/// Period of the CPU bandwidth limit in microseconds (the kernel's default).
const CPU_PERIOD_US: u32 = 100_000;

/// Limits of one program or build.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ResourceLimits {
    /// Memory in MiB.
    pub(super) memory_mb: u32,
    pub(super) cpu_cores: f64,
    /// Limit of the environment's files together, in GiB. The kernel enforces it for each file only
    /// (RLIMIT_FSIZE); `usage` measures the sum.
    pub(super) disk_gb: u32,
}

impl ResourceLimits {
    /// Returns the limits for the resources of an environment, at least those of the smallest one: 256 MiB of
    /// memory, a quarter of a core, 1 GiB of disk.
    pub(super) fn of(resources: Option<Resources>) -> Self {
        let resources = resources.unwrap_or_default();
        Self {
            memory_mb: u32::try_from(resources.memory_mb).unwrap_or(0).max(256),
            cpu_cores: resources.cpu_cores.max(0.25),
            disk_gb: u32::try_from(resources.disk_gb).unwrap_or(0).max(1),
        }
    }

    fn memory_bytes(self) -> u64 {
        u64::from(self.memory_mb) << 20
    }

    pub(super) fn disk_bytes(self) -> u64 {
        u64::from(self.disk_gb) << 30
    }
}

/// Mechanism that enforces limits on this machine.
#[derive(Clone, Debug)]
pub(super) enum Limiter {
    /// A control group (version 2) for each program, below this directory.
    CgroupV2(PathBuf),
    /// A control group (version 1) for each program and controller.
    CgroupV1,
    /// Only resource limits per process (setrlimit(2)).
    Rlimits,
}

/// Required cgroup controllers.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

impl Limiter {
    /// Returns the best mechanism that this machine supports, found by creating a control group.
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
        let can_create = |hierarchy: &PathBuf| {
            let parent = hierarchy.join("tenantry");
            // A unique name: runners in different containers can have the same process id.
            let group = parent.join(format!("probe-{}", primitives::id::new()));
            hierarchy.join("cgroup.procs").exists()
                && fs::create_dir_all(&parent).is_ok()
                && fs::create_dir(&group).is_ok()
                && fs::remove_dir(&group).is_ok()
        };
        if hierarchies.iter().all(can_create) { Self::CgroupV1 } else { Self::Rlimits }
    }

    /// Returns a description for operators.
    pub(super) fn description(&self) -> &'static str {
        match self {
            Self::CgroupV2(_) => "cgroup v2: CPU, memory and processes of each program",
            Self::CgroupV1 => "cgroup v1: CPU, memory and processes of each program",
            Self::Rlimits => {
                "rlimits: memory of each process, number of processes; CPU is not limited"
            }
        }
    }

    /// Returns true if the limits apply to all processes of a program together, not to each process.
    pub(super) fn is_complete(&self) -> bool {
        !matches!(self, Self::Rlimits)
    }

    /// Returns the arguments of `prlimit` (util-linux) for the first process of a program. The kernel counts
    /// processes per account, so their number is limited only if the environment has its own account.
    pub(super) fn rlimit_arguments(
        &self,
        limits: ResourceLimits,
        has_own_account: bool,
    ) -> Vec<String> {
        let mut arguments = vec![
            format!("--core={}", clamp_to_hard_limit(Resource::Core, 0)),
            format!("--nofile={}", clamp_to_hard_limit(Resource::Nofile, 4_096)),
            format!("--fsize={}", clamp_to_hard_limit(Resource::Fsize, limits.disk_bytes())),
        ];
        if has_own_account {
            let processes = clamp_to_hard_limit(Resource::Nproc, u64::from(PROCESSES_MAX));
            arguments.push(format!("--nproc={processes}"));
        }
        if !self.is_complete() {
            // RLIMIT_DATA instead of RLIMIT_AS: many programs reserve far more address space than they use.
            arguments.push(format!(
                "--data={}",
                clamp_to_hard_limit(Resource::Data, limits.memory_bytes())
            ));
        }
        arguments
    }

    /// Moves a process into its own control group, which its child processes inherit. The process must still
    /// wait at its start gate (see [`super::sandbox`]): it has no child processes yet.
    pub(super) fn apply(
        &self,
        group: &str,
        process: &ProcessTree,
        limits: ResourceLimits,
    ) -> io::Result<()> {
        let period = f64::from(CPU_PERIOD_US);
        let quota = (limits.cpu_cores * period).round().to_string();
        let memory = limits.memory_bytes().to_string();
        let processes = PROCESSES_MAX.to_string();
        match self {
            Self::CgroupV2(parent) => {
                let cgroup = parent.join(group);
                fs::create_dir_all(&cgroup)?;
                fs::write(cgroup.join("memory.max"), memory)?;
                // Prevents swapping. Fails on kernels without swap, which do not have this file.
                let _ = fs::write(cgroup.join("memory.swap.max"), "0");
                fs::write(cgroup.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}"))?;
                fs::write(cgroup.join("pids.max"), processes)?;
                fs::write(cgroup.join("cgroup.procs"), process.pid().to_string())
            }
            Self::CgroupV1 => {
                let cgroups = CONTROLLERS.map(|it| v1_parent(it).join(group));
                for cgroup in &cgroups {
                    fs::create_dir_all(cgroup)?;
                }
                let [cpu_cgroup, memory_cgroup, pids_cgroup] = &cgroups;
                fs::write(memory_cgroup.join("memory.limit_in_bytes"), memory)?;
                fs::write(cpu_cgroup.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
                fs::write(cpu_cgroup.join("cpu.cfs_quota_us"), quota)?;
                fs::write(pids_cgroup.join("pids.max"), processes)?;
                for cgroup in &cgroups {
                    fs::write(cgroup.join("cgroup.procs"), process.pid().to_string())?;
                }
                Ok(())
            }
            Self::Rlimits => Ok(()),
        }
    }

    /// Removes the control groups of an environment that contain no processes. Their names begin with the
    /// environment's id.
    pub(super) fn remove_empty(&self, environment_id: &str) {
        let parents = match self {
            Self::CgroupV2(parent) => vec![parent.clone()],
            Self::CgroupV1 => CONTROLLERS.map(v1_parent).to_vec(),
            Self::Rlimits => vec![],
        };
        for entry in parents.iter().filter_map(|it| fs::read_dir(it).ok()).flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(environment_id) {
                // Fails while the group contains a process.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// Returns `limit`, or this process's hard limit if that is lower: an unprivileged process cannot exceed it.
fn clamp_to_hard_limit(resource: Resource, limit: u64) -> u64 {
    getrlimit(resource).maximum.map_or(limit, |it| it.min(limit))
}

/// Directory of Tenantry's control groups in the hierarchy of a controller.
fn v1_parent(controller: &str) -> PathBuf {
    Path::new(CGROUP_ROOT).join(controller).join("tenantry")
}
