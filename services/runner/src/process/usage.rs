//! Resource usage of environments, measured like `ps` and `du` measure.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use api::project::Capacity;
use rustix::{fs::statvfs, param::clock_ticks_per_second};
use uuid::Uuid;
use walkdir::WalkDir;

use super::{
    directory::EnvironmentDir,
    limits::ResourceLimits,
    memory_group::memory_bytes,
    process_table::{ProcessRow, ProcessTable},
};

/// Interval at which disk usage is measured during fetch and build.
const DISK_INTERVAL: Duration = Duration::from_secs(5);

/// Minimum pause between two disk measurements of an environment.
const DISK_PAUSE: Duration = Duration::from_secs(10);

/// The same as a multiple of the duration of the first one: measuring takes at most a twentieth of the time.
const DISK_PAUSE_RATIO: u32 = 20;

/// Maximum number of files per disk measurement.
const DISK_FILES_MAX: usize = 2_000_000;

/// Maximum duration of a disk measurement.
const DISK_TIME_MAX: Duration = Duration::from_secs(20);

/// Resource usage of one environment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResourceUsage {
    pub(super) processes: i32,
    pub(super) memory_bytes: i64,
    pub(super) cpu_cores: f64,
}

/// Disk usage of an environment's files.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DiskUsage {
    pub(super) bytes: i64,
    /// True if the measurement ended at its maximum of files or time; the actual usage is higher.
    pub(super) is_partial: bool,
}

impl DiskUsage {
    /// Returns true if an environment exceeds its disk limit, or has too many files to count.
    pub(super) fn exceeds(self, limits: ResourceLimits) -> bool {
        self.is_partial || u64::try_from(self.bytes).is_ok_and(|it| it > limits.disk_bytes())
    }
}

/// Last disk measurement of an environment.
#[derive(Clone, Copy, Default)]
struct DiskSample {
    usage: DiskUsage,
    /// End of the measurement; `None` before the first one.
    measured_at: Option<Instant>,
    /// Duration of the measurement.
    duration: Duration,
}

impl DiskSample {
    fn is_due(&self) -> bool {
        let pause = DISK_PAUSE.max(self.duration * DISK_PAUSE_RATIO);
        self.measured_at.is_none_or(|it| it.elapsed() > pause)
    }
}

/// CPU time consumed by an environment's processes, at one moment.
#[derive(Clone, Copy)]
struct CpuSample {
    taken_at: Instant,
    ticks: u64,
}

/// Last samples of every environment.
#[derive(Default)]
pub(super) struct UsageMeter {
    cpu: Mutex<HashMap<Uuid, CpuSample>>,
    disk: Mutex<HashMap<Uuid, DiskSample>>,
}

impl UsageMeter {
    /// Returns the usage of an environment, whose processes are `rows`. CPU usage is the average since the
    /// previous call.
    pub(super) fn usage(&self, id: Uuid, rows: &[&ProcessRow]) -> ResourceUsage {
        let ticks = rows.iter().map(|it| it.cpu_ticks).sum::<u64>();
        let now = CpuSample { taken_at: Instant::now(), ticks };
        let before = self.cpu.lock().unwrap_or_else(PoisonError::into_inner).insert(id, now);
        ResourceUsage {
            processes: i32::try_from(rows.len()).unwrap_or(i32::MAX),
            memory_bytes: memory_bytes(rows),
            cpu_cores: before.map_or(0.0, |before| cores(before, now)),
        }
    }

    /// Returns the last measured disk usage of an environment.
    pub(super) fn disk(&self, id: Uuid) -> DiskUsage {
        let samples = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        samples.get(&id).map(|it| it.usage).unwrap_or_default()
    }

    /// Measures the disk usage of an environment, unless the last measurement is recent.
    pub(super) async fn refresh_disk(&self, id: Uuid, directory: &Path) {
        let is_due = {
            let samples = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
            samples.get(&id).is_none_or(DiskSample::is_due)
        };
        if is_due {
            let started = Instant::now();
            let usage = measure_disk(directory.to_owned()).await;
            let now = Instant::now();
            let duration = now.duration_since(started);
            let sample = DiskSample { usage, measured_at: Some(now), duration };
            self.disk.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sample);
        }
    }

    /// Drops samples of environments that are not in `ids`.
    pub(super) fn retain_only(&self, ids: &[Uuid]) {
        self.cpu.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| ids.contains(id));
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| ids.contains(id));
    }
}

/// Returns the average number of CPU cores used between two samples.
fn cores(before: CpuSample, now: CpuSample) -> f64 {
    // The difference can be negative, because the second sample lacks the CPU time of processes that have
    // ended in between.
    let ticks = u32::try_from(now.ticks.saturating_sub(before.ticks)).unwrap_or(u32::MAX);
    let per_second = u32::try_from(clock_ticks_per_second()).unwrap_or(100);
    let seconds = now.taken_at.duration_since(before.taken_at).as_secs_f64().max(0.001);
    f64::from(ticks) / f64::from(per_second) / seconds
}

/// Returns the processes of an environment: those of its account, or of its process tree if all environments
/// share one account.
pub(super) fn processes_of(
    table: &ProcessTable,
    account: Option<u32>,
    root: Option<u32>,
) -> Vec<&ProcessRow> {
    match (account, root) {
        (Some(account), _) => table.of_account(account),
        (None, Some(root)) => table.tree(root),
        (None, None) => vec![],
    }
}

/// Measures the disk usage of a directory like `du`, up to a maximum of files and time.
pub(super) async fn measure_disk(directory: PathBuf) -> DiskUsage {
    let measured = tokio::task::spawn_blocking(move || {
        disk_usage(&directory, DISK_FILES_MAX, Instant::now() + DISK_TIME_MAX)
    });
    measured.await.unwrap_or_default()
}

fn disk_usage(directory: &Path, files_max: usize, deadline: Instant) -> DiskUsage {
    let mut usage = DiskUsage::default();
    let mut hard_linked = std::collections::HashSet::new();
    // Symbolic links are not followed.
    for (count, entry) in WalkDir::new(directory).same_file_system(true).into_iter().enumerate() {
        if count >= files_max || (count % 1_024 == 0 && Instant::now() > deadline) {
            usage.is_partial = true;
            break;
        }
        let metadata = match entry.and_then(|it| it.metadata()) {
            Ok(metadata) => metadata,
            Err(error) => {
                let kind = error.io_error().map(std::io::Error::kind);
                // A file that was deleted during the measurement is not counted. Other errors, such as a path
                // that is too long, make the result partial.
                usage.is_partial |= kind != Some(std::io::ErrorKind::NotFound);
                continue;
            }
        };
        let is_counted = metadata.is_dir()
            || metadata.nlink() == 1
            || hard_linked.insert((metadata.dev(), metadata.ino()));
        if is_counted {
            // `st_blocks` counts units of 512 bytes (stat(2)).
            usage.bytes += i64::try_from(metadata.blocks() * 512).unwrap_or(i64::MAX);
        }
    }
    usage
}

/// Returns CPU, memory and disk of the machine, limited to the ranges of the API.
pub(super) fn capacity(directory: &Path) -> Capacity {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|it| it.strip_prefix("MemTotal:"));
    let kilobytes = memory.and_then(|it| it.trim().split(' ').next()?.parse::<i64>().ok());
    let disk_gb = statvfs(directory).map_or(0, |it| it.f_blocks * it.f_frsize) >> 30;
    Capacity {
        cpu_cores: f64::from(u32::try_from(cores).unwrap_or(1)).min(1024.0),
        memory_mb: i32::try_from(kilobytes.unwrap_or(0) / 1024).unwrap_or(0).max(256),
        disk_gb: i32::try_from(disk_gb).unwrap_or(i32::MAX).clamp(1, 1_048_576),
    }
}

/// Waits until the files of an environment exceed its disk limit; returns the error of the task.
pub(super) async fn disk_limit_exceeded(
    environment: &EnvironmentDir,
    limits: ResourceLimits,
) -> anyhow::Error {
    loop {
        tokio::time::sleep(DISK_INTERVAL).await;
        let usage = measure_disk(environment.path().to_owned()).await;
        if usage.exceeds(limits) {
            return anyhow::anyhow!(
                "the files of the environment exceed its disk limit of {} GiB, or are too many to count; \
                 remove files or raise the limit",
                limits.disk_gb
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_usage_matches_du_and_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..50 {
            fs::write(folder.path().join(number.to_string()), vec![1; number * 100]).unwrap();
        }
        fs::hard_link(folder.path().join("49"), folder.path().join("linked")).unwrap();
        std::os::unix::fs::symlink("/usr", folder.path().join("usr")).unwrap();
        let output =
            std::process::Command::new("du").args(["-s", "-B1"]).arg(folder.path()).output();
        let output = String::from_utf8(output.unwrap().stdout).unwrap();
        let deadline = Instant::now() + DISK_TIME_MAX;
        let usage = disk_usage(folder.path(), DISK_FILES_MAX, deadline);
        assert_eq!(usage.bytes.to_string(), output.split('\t').next().unwrap());
        assert!(!usage.is_partial, "all 53 entries were counted");
        assert!(disk_usage(folder.path(), 20, deadline).is_partial, "at most 20 files");
        assert!(disk_usage(folder.path(), 2_000, Instant::now()).is_partial, "no time left");
    }
}
