//! Between the contract and the rules.

use api::project as pb;
use chassis::{Error, Result, mask, timestamp};

use super::{Allocated, Draft, Health, Patch, Room, Server, report::Report};
use crate::{
    environment::wire::{cores, millis, resources},
    task::{Observed, TaskId},
};

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

fn capacity(it: Room) -> pb::Capacity {
    pb::Capacity { cpu_cores: cores(it.cpu_millis), memory_mb: it.memory_mb, disk_gb: it.disk_gb }
}

fn room(it: &pb::Capacity) -> Room {
    Room { cpu_millis: millis(it.cpu_cores), memory_mb: it.memory_mb, disk_gb: it.disk_gb }
}

impl From<&Server> for pb::Server {
    fn from(it: &Server) -> Self {
        Self {
            id: it.id.into(),
            org_id: it.org_id.map(String::from).unwrap_or_default(),
            name: it.name.clone(),
            address: it.address.clone(),
            capacity: it.capacity().map(capacity),
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

/// A server as people see it. A shared one shows nothing of itself (PL-21).
pub(super) fn seen(it: &Server, allocated: Allocated, now: time::OffsetDateTime) -> pb::Server {
    let small = |it: i64| i32::try_from(it).unwrap_or(i32::MAX);
    let health = pb::ServerHealth::from(Health::at(it.last_seen_at, now)).into();
    if it.org_id.is_none() {
        let (id, name) = (it.id.into(), it.name.clone());
        return pb::Server { id, name, health, shared: true, ..Default::default() };
    }
    pb::Server {
        health,
        environment_count: small(allocated.environments),
        allocated: Some(capacity(Room {
            cpu_millis: small(allocated.cpu_millis),
            memory_mb: small(allocated.memory_mb),
            disk_gb: small(allocated.disk_gb),
        })),
        ..it.into()
    }
}

impl From<&pb::ConnectServerRequest> for Draft {
    fn from(it: &pb::ConnectServerRequest) -> Self {
        Self {
            name: it.name.trim().to_owned(),
            address: it.address.clone(),
            capacity: it.capacity.as_ref().map(room),
        }
    }
}

/// What the mask of a change may name.
const PATHS: [&str; 3] = ["name", "address", "capacity"];

/// What a person wants to be different.
pub(super) fn patch(it: &pb::UpdateServerRequest) -> Result<Patch> {
    let paths = mask::paths(it.update_mask.as_ref(), &PATHS)?;
    let named = |path: &str| paths.contains(&path);
    for (path, text) in [("name", &it.name), ("address", &it.address)] {
        if named(path) && text.trim().is_empty() {
            return Err(Error::invalid(path, "must not be empty"));
        }
    }
    let text = |path: &str, value: &str| named(path).then(|| value.trim().to_owned());
    Ok(Patch {
        name: text("name", &it.name),
        address: text("address", &it.address),
        capacity: named("capacity").then(|| it.capacity.as_ref().map(room)),
    })
}

/// What is known of an environment's health.
pub(crate) fn health(
    report: Option<Report>,
    room: Room,
    last: Option<TaskId>,
) -> pb::EnvironmentHealth {
    let known = pb::EnvironmentHealth {
        resources: Some(resources(room)),
        last_deployment_id: last.map(String::from).unwrap_or_default(),
        ..Default::default()
    };
    let Some(it) = report else { return known };
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
        ..known
    }
}
