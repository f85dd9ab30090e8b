//! Memory of control groups (versions 1 and 2), as the kernel counts it against their limit.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::process_table::ProcessRow;

/// Mount point of control groups.
pub(super) const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The control group that counts the memory of a process.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemoryGroup {
    directory: PathBuf,
    is_version_1: bool,
}

impl MemoryGroup {
    /// Returns the group of a process; `None` if the process has ended or the machine has no such groups.
    pub(super) fn of_process(pid: u32) -> Option<Self> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controller, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
            let root = Path::new(CGROUP_ROOT);
            match controller {
                "memory" => {
                    Some(Self { directory: root.join("memory").join(path), is_version_1: true })
                }
                "" if root.join("cgroup.controllers").exists() => {
                    Some(Self { directory: root.join(path), is_version_1: false })
                }
                _ => None,
            }
        })
    }

    /// File with the number of processes that the kernel has killed because of the limit.
    pub(super) fn kills_file(&self) -> PathBuf {
        let name = if self.is_version_1 { "memory.oom_control" } else { "memory.events" };
        self.directory.join(name)
    }

    /// Returns the used bytes, as container engines show them: without cached file contents that were not
    /// used for some time, which the kernel frees before it kills a process.
    fn used_bytes(&self) -> Option<i64> {
        let (usage, inactive) = if self.is_version_1 {
            ("memory.usage_in_bytes", "total_inactive_file ")
        } else {
            ("memory.current", "inactive_file ")
        };
        let read = |file: &str| fs::read_to_string(self.directory.join(file)).ok();
        let used: i64 = read(usage)?.trim().parse().ok()?;
        let statistics = read("memory.stat")?;
        let inactive = statistics.lines().find_map(|it| it.strip_prefix(inactive)?.parse().ok());
        Some((used - inactive.unwrap_or(0)).max(0))
    }
}

/// Returns the memory of processes: that of their control groups, in which shared memory counts once. The
/// resident memory is added of processes in the group of the runner itself, which is not theirs alone, and of
/// those whose group cannot be read.
pub(super) fn memory_bytes(rows: &[&ProcessRow]) -> i64 {
    let own = MemoryGroup::of_process(std::process::id());
    let mut groups = BTreeSet::new();
    let mut bytes = 0;
    for row in rows {
        match MemoryGroup::of_process(row.pid) {
            Some(group) if Some(&group) != own.as_ref() && group.used_bytes().is_some() => {
                groups.insert(group);
            }
            _ => bytes += row.memory_bytes,
        }
    }
    // A group counts the groups below it, too.
    let is_below = |it: &MemoryGroup, other: &MemoryGroup| {
        it != other && it.directory.starts_with(&other.directory)
    };
    let topmost = groups.iter().filter(|it| !groups.iter().any(|other| is_below(it, other)));
    bytes + topmost.filter_map(MemoryGroup::used_bytes).sum::<i64>()
}
