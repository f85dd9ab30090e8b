//! Limits of a container: memory, CPU, processes, files, and disk.

use std::{
    collections::HashMap,
    sync::{PoisonError, atomic::Ordering},
    time::Instant,
};

use anyhow::Result;
use bollard::{
    models::{HostConfig, ResourcesUlimits},
    query_parameters::ListContainersOptionsBuilder,
};
use uuid::Uuid;

use super::{Docker, ENVIRONMENT_LABEL, MEASURE_INTERVAL, engine_error};

/// Limits of one container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContainerLimits {
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_cores: f64,
    /// Processes and threads.
    pub(crate) processes: u32,
    /// Limit of the environment's files together. The engine enforces it for the writable layer if its
    /// storage driver can, and the kernel for each file.
    pub(crate) disk_bytes: u64,
}

/// Option of the storage driver with the maximum size of a container.
pub(super) const DISK_QUOTA: &str = "size";

impl ContainerLimits {
    /// Adds the limits to a configuration.
    pub(super) fn apply(self, configuration: HostConfig) -> HostConfig {
        let memory = i64::try_from(self.memory_bytes).unwrap_or(i64::MAX);
        let files = |name: &str, limit| ResourcesUlimits {
            name: Some(name.to_owned()),
            soft: Some(limit),
            hard: Some(limit),
        };
        #[expect(clippy::cast_possible_truncation, reason = "some thousand cores at most")]
        let nano_cpus = (self.cpu_cores * 1e9) as i64;
        HostConfig {
            memory: Some(memory),
            // Memory and swap together: no swap.
            memory_swap: Some(memory),
            nano_cpus: Some(nano_cpus),
            pids_limit: Some(i64::from(self.processes)),
            ulimits: Some(vec![
                files("core", 0),
                files("nofile", 4_096),
                files("fsize", i64::try_from(self.disk_bytes).unwrap_or(i64::MAX)),
            ]),
            ..configuration
        }
    }

    /// Option of the storage driver that limits the writable layer.
    pub(super) fn disk_quota(self) -> HashMap<String, String> {
        HashMap::from([(DISK_QUOTA.to_owned(), self.disk_bytes.to_string())])
    }
}

impl Docker {
    /// Returns a description of the limits for operators.
    pub(crate) fn describe_limits(&self) -> String {
        let disk = if self.has_disk_quota.load(Ordering::Relaxed) {
            "disk of a container by the storage driver, of its data measured"
        } else {
            "disk measured each minute, stopped over the limit"
        };
        format!("{}: CPU, memory and processes; {disk}", self.engine.cgroups)
    }

    /// Returns a description of the isolation for operators, at most 200 bytes.
    pub(crate) fn describe_isolation(&self) -> String {
        let name = &self.engine.name;
        format!(
            "{name}: container, own network, own account, no capabilities, no new privileges, seccomp"
        )
    }

    /// Returns the size of the files that the containers of an environment have written outside of its data,
    /// in bytes.
    pub(crate) fn written_bytes(&self, environment: Uuid) -> i64 {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.bytes.get(&environment).copied().unwrap_or_default()
    }

    /// Measures these files, unless they were measured within the last minute.
    pub(crate) async fn measure_written(&self) -> Result<()> {
        {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            if written.measured_at.is_some_and(|it| it.elapsed() < MEASURE_INTERVAL) {
                return Ok(());
            }
            written.measured_at = Some(Instant::now());
        }
        let labelled = HashMap::from([("label", vec![ENVIRONMENT_LABEL])]);
        let options = ListContainersOptionsBuilder::new().all(true).size(true).filters(&labelled);
        let containers = self.client.list_containers(Some(options.build())).await;
        let mut bytes = HashMap::<_, i64>::new();
        for container in containers.map_err(engine_error)? {
            let labels = container.labels.unwrap_or_default();
            let id = labels.get(ENVIRONMENT_LABEL).and_then(|it| Uuid::try_parse(it).ok());
            if let Some(id) = id {
                *bytes.entry(id).or_default() += container.size_rw.unwrap_or_default();
            }
        }
        self.written.lock().unwrap_or_else(PoisonError::into_inner).bytes = bytes;
        Ok(())
    }
}
