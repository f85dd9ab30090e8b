//! Resource limits of deployed code: a control group for each program if the machine supports them (version 2
//! or 1), and resource limits per process (setrlimit(2)) in any case.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use api::project::Resources;
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use super::memory_group::{CGROUP_ROOT, MemoryGroup};

/// Maximum number of processes and threads of one program.
pub(super) const PROCESSES_MAX: u32 = 1_024;

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

    /// Returns the limits of a build, which needs more memory than its program.
    pub(super) fn of_build(resources: Option<Resources>, build_memory_mb: u32) -> Self {
        let limits = Self::of(resources);
        Self { memory_mb: limits.memory_mb.max(build_memory_mb), ..limits }
    }

    pub(super) fn memory_bytes(self) -> u64 {
        u64::from(self.memory_mb) << 20
    }

    pub(super) fn disk_bytes(self) -> u64 {
        u64::from(self.disk_gb) << 30
    }
}

/// Default memory of a build in MiB.
const BUILD_MEMORY_MB: u32 = 2_048;

/// Returns the memory of a build in MiB: the setting, but at most the memory of the machine, or the default,
/// but at most half of it.
pub(super) fn build_memory_mb(setting: Option<u32>, machine_mb: u32) -> u32 {
    setting.map_or(BUILD_MEMORY_MB.min(machine_mb / 2), |it| it.min(machine_mb))
}

/// Error: the kernel has killed a process because its control group had reached the memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemoryLimitExceeded {
    Build { limit_mb: u32 },
    Program { limit_mb: u32 },
}

impl fmt::Display for MemoryLimitExceeded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build { limit_mb } => write!(
                formatter,
                "the build exceeded its memory limit of {limit_mb} MiB; reduce its memory, for example by \
                 fewer parallel jobs, or raise memory_mb of the environment or the setting build-memory-mb \
                 of the runner"
            ),
            Self::Program { limit_mb } => write!(
                formatter,
                "the program exceeded the memory limit of its environment, {limit_mb} MiB; reduce its \
                 memory, or raise memory_mb of the environment"
            ),
        }
    }
}

impl std::error::Error for MemoryLimitExceeded {}

/// Interval at which the kills in a control group are looked for.
const KILL_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Counter of the processes of a control group that the kernel has killed because of the memory limit.
pub(super) struct MemoryKills(Option<PathBuf>);

impl MemoryKills {
    /// Returns the counter of the control group in which a process of a container is.
    pub(super) fn of_process(pid: u32) -> Self {
        Self(MemoryGroup::of_process(pid).map(|it| it.kills_file()))
    }

    /// Returns false if no process was killed, or if the machine has no control groups.
    pub(super) fn is_any(&self) -> bool {
        let text = self.0.as_ref().and_then(|it| fs::read_to_string(it).ok()).unwrap_or_default();
        let count = text.lines().find_map(|it| it.strip_prefix("oom_kill "));
        count.is_some_and(|it| it.trim() != "0")
    }

    /// Waits until a process was killed.
    pub(super) async fn wait(&self) {
        while !self.is_any() {
            tokio::time::sleep(KILL_POLL_INTERVAL).await;
        }
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

/// Control group of the processes that write the output of programs.
const LOG_GROUP: &str = "logs";

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
    pub(super) fn apply(&self, group: &str, pid: u32, limits: ResourceLimits) -> io::Result<()> {
        let period = f64::from(CPU_PERIOD_US);
        let quota = (limits.cpu_cores * period).round().to_string();
        let memory = limits.memory_bytes().to_string();
        let processes = PROCESSES_MAX.to_string();
        match self {
            Self::CgroupV2(parent) => {
                let cgroup = parent.join(group);
                create_group(&cgroup)?;
                fs::write(cgroup.join("memory.max"), memory)?;
                // Prevents swapping. Fails on kernels without swap, which do not have this file.
                let _ = fs::write(cgroup.join("memory.swap.max"), "0");
                fs::write(cgroup.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}"))?;
                fs::write(cgroup.join("pids.max"), processes)?;
                fs::write(cgroup.join("cgroup.procs"), pid.to_string())
            }
            Self::CgroupV1 => {
                let cgroups = CONTROLLERS.map(|it| v1_parent(it).join(group));
                for cgroup in &cgroups {
                    create_group(cgroup)?;
                }
                let [cpu_cgroup, memory_cgroup, pids_cgroup] = &cgroups;
                // Memory and swap together: at least the limit of the memory, so it is raised before that.
                // Fails on kernels without accounting of swap, which do not have this file.
                let with_swap = memory_cgroup.join("memory.memsw.limit_in_bytes");
                let _ = fs::write(&with_swap, "-1");
                fs::write(memory_cgroup.join("memory.limit_in_bytes"), &memory)?;
                let _ = fs::write(&with_swap, &memory);
                fs::write(cpu_cgroup.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
                fs::write(cpu_cgroup.join("cpu.cfs_quota_us"), quota)?;
                fs::write(pids_cgroup.join("pids.max"), processes)?;
                for cgroup in &cgroups {
                    fs::write(cgroup.join("cgroup.procs"), pid.to_string())?;
                }
                Ok(())
            }
            Self::Rlimits => Ok(()),
        }
    }

    /// Returns the processes in a control group; `None` without control groups.
    pub(super) fn processes(&self, group: &str) -> Option<Vec<u32>> {
        let group = match self {
            Self::CgroupV2(parent) => parent.join(group),
            Self::CgroupV1 => v1_parent("pids").join(group),
            Self::Rlimits => return None,
        };
        let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        Some(pids.lines().filter_map(|it| it.parse().ok()).collect())
    }

    /// Returns the counter of a control group.
    pub(super) fn memory_kills(&self, group: &str) -> MemoryKills {
        MemoryKills(match self {
            Self::CgroupV2(parent) => Some(parent.join(group).join("memory.events")),
            Self::CgroupV1 => Some(v1_parent("memory").join(group).join("memory.oom_control")),
            Self::Rlimits => None,
        })
    }

    /// Moves the process that writes the output of a program into a control group without limits: service
    /// managers end the processes of a service's own group with it, and programs outlive the runner.
    pub(super) fn apply_to_log_writer(&self, pid: u32) -> io::Result<()> {
        let groups = match self {
            Self::CgroupV2(parent) => vec![parent.join(LOG_GROUP)],
            Self::CgroupV1 => CONTROLLERS.map(|it| v1_parent(it).join(LOG_GROUP)).to_vec(),
            Self::Rlimits => vec![],
        };
        for group in groups {
            fs::create_dir_all(&group)?;
            fs::write(group.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
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

/// Creates a control group. An ended one with the same name is removed first, because its counters would
/// continue.
fn create_group(path: &Path) -> io::Result<()> {
    // Fails while the group contains a process, and if there is none.
    let _ = fs::remove_dir(path);
    fs::create_dir_all(path)
}

/// Returns `limit`, or this process's hard limit if that is lower: an unprivileged process cannot exceed it.
fn clamp_to_hard_limit(resource: Resource, limit: u64) -> u64 {
    getrlimit(resource).maximum.map_or(limit, |it| it.min(limit))
}

/// Directory of Tenantry's control groups in the hierarchy of a controller.
fn v1_parent(controller: &str) -> PathBuf {
    Path::new(CGROUP_ROOT).join(controller).join("tenantry")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_build_is_bounded_by_that_of_the_machine() {
        assert_eq!(build_memory_mb(None, 16_000), 2_048);
        assert_eq!(build_memory_mb(None, 2_000), 1_000);
        assert_eq!(build_memory_mb(Some(6_000), 16_000), 6_000);
        assert_eq!(build_memory_mb(Some(6_000), 2_000), 2_000);
        let of_build = |memory_mb| {
            let resources = Resources { memory_mb, ..Resources::default() };
            ResourceLimits::of_build(Some(resources), 2_048).memory_mb
        };
        assert_eq!((of_build(512), of_build(4_096)), (2_048, 4_096));
    }

    #[test]
    fn kills_are_counted_in_the_files_of_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let kills = MemoryKills(Some(path.clone()));
        assert!(!kills.is_any(), "no file");
        for (text, is_any) in [
            ("low 0\nhigh 0\nmax 9\noom 1\noom_kill 0\noom_group_kill 0\n", false),
            ("low 0\nhigh 0\nmax 9\noom 1\noom_kill 12\noom_group_kill 0\n", true),
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", false),
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", true),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(kills.is_any(), is_any, "{text}");
        }
    }
}
