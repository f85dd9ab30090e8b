//! CPU, memory and disk.

use api::project as pb;

/// CPU, memory and disk: the capacity of a server, or the allocation of an environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU time, in thousandths of a core.
    pub cpu_millis: i32,
    pub memory_mb: i32,
    pub disk_gb: i32,
}

/// Converts thousandths of a core to cores.
fn cores(millis: i32) -> f64 {
    f64::from(millis) / 1_000.0
}

/// Converts cores to thousandths of a core.
#[expect(clippy::cast_possible_truncation, reason = "the contract allows at most 1,000 cores")]
fn cpu_millis(cores: f64) -> i32 {
    (cores * 1_000.0).round() as i32
}

impl From<Resources> for pb::Resources {
    fn from(it: Resources) -> Self {
        Self { cpu_cores: cores(it.cpu_millis), memory_mb: it.memory_mb, disk_gb: it.disk_gb }
    }
}

impl From<&pb::Resources> for Resources {
    fn from(it: &pb::Resources) -> Self {
        Self { cpu_millis: cpu_millis(it.cpu_cores), memory_mb: it.memory_mb, disk_gb: it.disk_gb }
    }
}

impl From<Resources> for pb::Capacity {
    fn from(it: Resources) -> Self {
        Self { cpu_cores: cores(it.cpu_millis), memory_mb: it.memory_mb, disk_gb: it.disk_gb }
    }
}

impl From<&pb::Capacity> for Resources {
    fn from(it: &pb::Capacity) -> Self {
        Self { cpu_millis: cpu_millis(it.cpu_cores), memory_mb: it.memory_mb, disk_gb: it.disk_gb }
    }
}
