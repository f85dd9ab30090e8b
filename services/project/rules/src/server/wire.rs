//! Conversion between messages of the contract, servers and heartbeats.

use api::project as pb;
use chassis::{Error, Result, mask, timestamp};
use uuid::Uuid;

use super::{
    Allocated, Draft, Health, Patch, Resources, Server,
    heartbeat::{Heartbeat, Machine},
    report::{Report, StoredReport},
};
use crate::{
    environment::wire::{cores, cpu_millis},
    foreign_text::{sanitize_block, sanitize_line},
    task::{
        Observed, TaskId,
        runner::wire::{ERROR_BYTES_MAX, lease_ref},
        wire::observed,
    },
};

/// Maximum length of a text about a server, in bytes.
const MACHINE_TEXT_BYTES_MAX: usize = 255;

/// Sanitizes a text about a server.
pub(crate) fn machine_text(text: &str) -> String {
    sanitize_line(text, MACHINE_TEXT_BYTES_MAX)
}

impl From<Health> for pb::ServerHealth {
    fn from(it: Health) -> Self {
        match it {
            Health::Healthy => Self::Healthy,
            Health::Degraded => Self::Degraded,
            Health::Disconnected => Self::Disconnected,
            Health::Dead => Self::Dead,
        }
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

impl From<&Server> for pb::Server {
    fn from(it: &Server) -> Self {
        Self {
            id: it.id.into(),
            org_id: it.org_id.map(String::from).unwrap_or_default(),
            name: it.name.clone(),
            address: it.address.clone(),
            capacity: it.capacity().map(Into::into),
            allocated: None,
            environment_count: 0,
            health: pb::ServerHealth::from(it.health).into(),
            shared: it.org_id.is_none(),
            isolation: it.isolation.clone(),
            limits: it.limits.clone(),
            runner_version: it.runner_version.clone(),
            last_seen_time: it.last_seen_at.map(timestamp),
            create_time: Some(timestamp(it.created_at)),
            etag: it.etag(),
        }
    }
}

/// Converts a server for people, with its current health and allocation. Of a shared server only id, name
/// and health are shown (PL-21).
pub(super) fn server_to_wire(
    server: &Server,
    allocated: Allocated,
    now: time::OffsetDateTime,
) -> pb::Server {
    let health = pb::ServerHealth::from(Health::at(server.last_seen_at, now)).into();
    if server.org_id.is_none() {
        return pb::Server {
            id: server.id.into(),
            name: server.name.clone(),
            health,
            shared: true,
            ..Default::default()
        };
    }
    let saturate = |it: i64| i32::try_from(it).unwrap_or(i32::MAX);
    let resources = Resources {
        cpu_millis: saturate(allocated.cpu_millis),
        memory_mb: saturate(allocated.memory_mb),
        disk_gb: saturate(allocated.disk_gb),
    };
    pb::Server {
        health,
        environment_count: saturate(allocated.environments),
        allocated: Some(resources.into()),
        ..server.into()
    }
}

impl From<&pb::ConnectServerRequest> for Draft {
    fn from(it: &pb::ConnectServerRequest) -> Self {
        Self {
            name: it.name.trim().to_owned(),
            address: it.address.clone(),
            capacity: it.capacity.as_ref().map(Into::into),
        }
    }
}

/// Fields that an update mask may name.
const UPDATABLE_FIELDS: [&str; 3] = ["name", "address", "capacity"];

impl TryFrom<&pb::UpdateServerRequest> for Patch {
    type Error = Error;

    fn try_from(it: &pb::UpdateServerRequest) -> Result<Self> {
        let paths = mask::paths(it.update_mask.as_ref(), &UPDATABLE_FIELDS)?;
        let is_named = |path: &str| paths.contains(&path);
        for (path, text) in [("name", &it.name), ("address", &it.address)] {
            if is_named(path) && text.trim().is_empty() {
                return Err(Error::invalid(path, "must not be empty"));
            }
        }
        let text = |path: &str, value: &str| is_named(path).then(|| value.trim().to_owned());
        Ok(Self {
            name: text("name", &it.name),
            address: text("address", &it.address),
            capacity: is_named("capacity").then(|| it.capacity.as_ref().map(Into::into)),
        })
    }
}

/// Health of an environment, from its last report.
pub(crate) fn environment_health(
    report: Option<StoredReport>,
    resources: Resources,
    last_deployment_id: Option<TaskId>,
) -> pb::EnvironmentHealth {
    let without_report = pb::EnvironmentHealth {
        resources: Some(resources.into()),
        last_deployment_id: last_deployment_id.map(String::from).unwrap_or_default(),
        ..Default::default()
    };
    let Some(it) = report else { return without_report };
    pb::EnvironmentHealth {
        process_running: matches!(it.observed, Observed::Running | Observed::Paused),
        http_ok: it.http_ok,
        cpu_cores: it.cpu_cores,
        memory_bytes: it.memory_bytes,
        disk_bytes: it.disk_bytes,
        process_count: it.process_count,
        limits: it.limits,
        isolation: it.isolation,
        query_time: Some(timestamp(it.reported_at)),
        ..without_report
    }
}

impl TryFrom<&pb::EnvironmentReport> for Report {
    type Error = Error;

    fn try_from(it: &pb::EnvironmentReport) -> Result<Self> {
        Ok(Self {
            environment_id: it.environment_id.parse()?,
            observed: observed(it.observed()),
            http_ok: it.http_ok,
            cpu_cores: it.cpu_cores,
            memory_bytes: it.memory_bytes,
            disk_bytes: it.disk_bytes,
            process_count: it.process_count,
            release: Uuid::try_parse(&it.release).ok(),
            detail: sanitize_block(&it.detail, ERROR_BYTES_MAX),
        })
    }
}

impl TryFrom<&pb::HeartbeatRequest> for Heartbeat {
    type Error = Error;

    fn try_from(it: &pb::HeartbeatRequest) -> Result<Self> {
        let machine = Machine {
            isolation: machine_text(&it.isolation),
            limits: machine_text(&it.limits),
            runner_version: machine_text(&it.version),
            database_address: machine_text(&it.database_address),
            capacity: it.capacity.as_ref().map(Into::into),
        };
        let reports = it.environments.iter().map(Report::try_from).collect::<Result<_>>()?;
        let leases = it.tasks.iter().map(|it| lease_ref(&it.task_id, &it.lease_id));
        Ok(Self { machine, reports, leases: leases.collect::<Result<_>>()? })
    }
}
