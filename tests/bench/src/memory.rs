//! Resident memory of processes, read from `/proc`.

use anyhow::{Context, Result};

/// Returns the resident memory of this process in MiB.
pub(crate) fn resident_mib() -> Result<i64> {
    resident_mib_of(std::process::id())
}

/// Returns the resident memory of a process in MiB.
pub(crate) fn resident_mib_of(pid: u32) -> Result<i64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
    let line = line.context("/proc/<pid>/status has no VmRSS")?;
    let kib: i64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib / 1024)
}
