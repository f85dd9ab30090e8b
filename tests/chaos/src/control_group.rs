//! Control groups (version 1, controller `cpu`) with a share and a quota of processor time.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Directory of the controller.
const CONTROLLER: &str = "/sys/fs/cgroup/cpu";
/// Period of a quota in microseconds.
const PERIOD_US: u32 = 100_000;
/// Weight of each group; that of a process outside is 1,024. So other programs of a busy machine do not
/// decide how long a start takes.
const SHARES: u32 = 65_536;

/// Creates a group of a run, with a quota in percent of a core.
pub(crate) fn create(folder: &Path, name: &str, percent: Option<u32>) -> Result<PathBuf> {
    let run = prefix(folder);
    let group = Path::new(CONTROLLER).join(format!("{run}-{name}"));
    std::fs::create_dir(&group).context("the controller `cpu` (version 1) is mounted")?;
    std::fs::write(group.join("cpu.shares"), SHARES.to_string())?;
    if let Some(percent) = percent {
        std::fs::write(group.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
        let quota = PERIOD_US / 100 * percent;
        std::fs::write(group.join("cpu.cfs_quota_us"), quota.to_string())?;
    }
    Ok(group)
}

/// Moves this process, and all that it starts, into a group.
pub(crate) fn enter(group: &Path) -> Result<()> {
    Ok(std::fs::write(group.join("cgroup.procs"), "0")?)
}

/// Removes the groups of a run, whose processes have ended.
pub(crate) fn remove_all(folder: &Path) {
    let run = prefix(folder);
    for entry in std::fs::read_dir(CONTROLLER).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&run) {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

/// Name of the folder of a run, with which the names of its groups begin.
fn prefix(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
