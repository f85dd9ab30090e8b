//! What runs and what it uses: read from the kernel, like `ps` and `du` do.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use api::project::Capacity;
use rustix::{
    fs::statvfs,
    param::{clock_ticks_per_second, page_size},
};

/// A look at the files of an environment may take this part of the time.
const DISK_SHARE: u32 = 20;

/// What one environment uses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    pub(super) processes: i32,
    pub(super) memory_bytes: i64,
    pub(super) cpu_cores: f64,
    pub(super) disk_bytes: i64,
}

/// A process, as the kernel knows it.
struct Row {
    group: u32,
    account: u32,
    ticks: u64,
    memory_bytes: i64,
}

/// Remembers the look before, so that it can tell what was used since.
#[derive(Default)]
pub(super) struct Figures(Mutex<HashMap<String, Before>>);

struct Before {
    at: Instant,
    ticks: u64,
    disk: (i64, Instant, Duration),
}

/// Every process of this machine, of one moment.
pub(super) struct Snapshot(Vec<Row>);

impl Snapshot {
    pub(super) fn take() -> Self {
        let Ok(entries) = fs::read_dir("/proc") else { return Self(vec![]) };
        let names = entries.flatten().filter_map(|it| it.file_name().to_str()?.parse().ok());
        Self(names.filter_map(row).collect())
    }
}

fn row(pid: u32) -> Option<Row> {
    let account = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = rest.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let pages = i64::try_from(number(21)?).ok()?;
    Some(Row {
        group: fields.get(2)?.parse().ok()?,
        account,
        ticks: number(11)? + number(12)?,
        memory_bytes: pages * i64::try_from(page_size()).ok()?,
    })
}

/// The processes of an account.
pub(super) fn of_account(account: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    let names = entries.flatten().filter_map(|it| it.file_name().to_str()?.parse().ok());
    let owned =
        |pid: &u32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|it| it.uid() == account);
    names.filter(owned).collect()
}

/// Bytes that the files of a folder take on disk, like `du` counts them.
pub(super) fn disk(folder: &Path) -> i64 {
    let Ok(meta) = fs::symlink_metadata(folder) else { return 0 };
    let own = i64::try_from(meta.blocks() * 512).unwrap_or(i64::MAX);
    if !meta.is_dir() {
        return own;
    }
    let Ok(entries) = fs::read_dir(folder) else { return own };
    entries.flatten().map(|it| disk(&it.path())).sum::<i64>() + own
}

/// What the machine has.
pub(super) fn machine(folder: &Path) -> Capacity {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|it| it.strip_prefix("MemTotal:"));
    let kilobytes = memory.and_then(|it| it.trim().split(' ').next()?.parse::<i64>().ok());
    let disk = statvfs(folder).map_or(0, |it| it.f_blocks * it.f_frsize) >> 30;
    Capacity {
        cpu_cores: f64::from(u32::try_from(cores).unwrap_or(1)).min(1024.0),
        memory_mb: i32::try_from(kilobytes.unwrap_or(0) / 1024).unwrap_or(0).max(256),
        disk_gb: i32::try_from(disk).unwrap_or(i32::MAX).clamp(1, 1_048_576),
    }
}

impl Figures {
    /// What an environment uses: the processes of its account, or of its group.
    pub(super) fn of(
        &self,
        all: &Snapshot,
        id: &str,
        folder: &Path,
        (account, group): (Option<u32>, Option<u32>),
    ) -> Use {
        let ours = |it: &&Row| match account {
            Some(account) => it.account == account,
            None => group == Some(it.group),
        };
        let rows: Vec<_> = all.0.iter().filter(ours).collect();
        let ticks = rows.iter().map(|it| it.ticks).sum::<u64>();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.remove(id);
        let now = Instant::now();
        let mut used = Use {
            processes: i32::try_from(rows.len()).unwrap_or(i32::MAX),
            memory_bytes: rows.iter().map(|it| it.memory_bytes).sum(),
            ..Use::default()
        };
        if let Some(before) = &before {
            // When a process has ended, its time is no longer counted.
            let since = u32::try_from(ticks.saturating_sub(before.ticks)).unwrap_or(u32::MAX);
            let second = u32::try_from(clock_ticks_per_second()).unwrap_or(100);
            let passed = now.duration_since(before.at).as_secs_f64().max(0.001);
            used.cpu_cores = f64::from(since) / f64::from(second) / passed;
        }
        let fresh = |it: &&Before| it.disk.1.elapsed() < it.disk.2 * DISK_SHARE;
        let disk = match before.as_ref().filter(fresh) {
            Some(before) => before.disk,
            None => (disk(folder), now, now.elapsed()),
        };
        used.disk_bytes = disk.0;
        known.insert(id.to_owned(), Before { at: now, ticks, disk });
        used
    }

    /// An environment is gone.
    pub(super) fn forget_but(&self, ids: &[String]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|id, _| ids.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `ps` and `du` say.
    #[test]
    fn what_is_used_is_what_the_kernel_says() {
        let all = Snapshot::take();
        let us = std::process::id();
        let row = row(us).unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let rss = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
        let rss: i64 = rss.trim().trim_end_matches(" kB").trim().parse().unwrap();
        assert!((row.memory_bytes / 1024 - rss).abs() < 4_096, "{} {rss}", row.memory_bytes);
        assert!(all.0.iter().any(|it| it.group == row.group));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let said = std::process::Command::new("du").args(["-s", "-B1"]).arg(&folder).output();
        let said = String::from_utf8(said.unwrap().stdout).unwrap();
        assert_eq!(disk(&folder).to_string(), said.split('\t').next().unwrap());
    }
}
