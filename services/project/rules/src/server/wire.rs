//! Conversion between messages of the contract and servers.

use api::project as pb;
use chassis::{Error, Result, mask, timestamp};
use time::OffsetDateTime;

use super::{Allocated, Draft, Patch, Server, health::Health};
use crate::{
    resources::Resources,
    types::{optional_id_text, parse_optional_id},
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
            dns_connection_id: optional_id_text(it.dns_connection_id),
            apps_domain: it.apps_domain.clone(),
        }
    }
}

/// Converts a server for people, with its current health and allocation. Of a shared server only id, name
/// and health are shown (PL-21).
pub fn server_to_wire(server: &Server, allocated: Allocated, now: OffsetDateTime) -> pb::Server {
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
const UPDATABLE_FIELDS: [&str; 4] = ["name", "address", "capacity", "dns_connection_id"];

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
            dns_connection_id: is_named("dns_connection_id")
                .then(|| parse_optional_id(&it.dns_connection_id))
                .transpose()?,
        })
    }
}
