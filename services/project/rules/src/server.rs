//! Servers: machines on which environments run. They are connected by organizations, or shared by the
//! platform.

pub mod health;
pub mod wire;

use api::{error::Reason, project as pb};
use chassis::{Changed, Code, EventTarget, OrgId, Refusal};
use time::OffsetDateTime;

use self::health::Health;
use crate::{
    resources::Resources,
    types::{DnsConnectionId, ServerId},
};

/// A server.
#[derive(Clone, Debug)]
pub struct Server {
    pub id: ServerId,
    /// `None`: shared by the platform.
    pub org_id: Option<OrgId>,
    pub name: String,
    pub address: String,
    /// Capacity for environments; either all three values are set, or none: unlimited.
    pub cpu_millis: Option<i32>,
    pub memory_mb: Option<i32>,
    pub disk_gb: Option<i32>,
    /// SHA-256 of the secret of the agent token; `None` for a shared server.
    pub token_hash: Option<Vec<u8>>,
    /// Health in the last event; [`Health::at`] is the current one.
    pub health: Health,
    pub isolation: String,
    pub limits: String,
    pub runner_version: String,
    /// Host and port at which programs reach the databases of add-ons; empty if the server has none.
    pub database_address: String,
    /// DNS connection of the host names of its environments.
    pub dns_connection_id: Option<DnsConnectionId>,
    /// Domain below which its environments have their host names; empty if it has none.
    pub apps_domain: String,
    pub last_seen_at: Option<OffsetDateTime>,
    /// Number of changes by people, from 1 on; its text is the etag.
    pub version: i64,
    pub created_at: OffsetDateTime,
}

/// Description of a server by its runner.
pub struct Machine {
    pub isolation: String,
    pub limits: String,
    pub runner_version: String,
    pub database_address: String,
    /// A valid domain, or empty.
    pub apps_domain: String,
    pub capacity: Option<Resources>,
}

/// Refusals to connect, change or remove a server, or to place an environment on it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the organization already has a server at this address")]
    Exists,
    #[error("the plan allows {0} servers; remove one or upgrade the plan")]
    Limit(i64),
    #[error("the server was changed by another call; read it again and repeat the change")]
    Stale,
    #[error("the server has {0} environments; destroy them first")]
    InUse(i64),
    #[error("the server has {available} {resource} available, but {requested} are requested")]
    InsufficientCapacity { resource: &'static str, requested: i64, available: i64 },
    #[error(
        "the runner of the server sends no heartbeats; check that tenantry-runner is running there"
    )]
    Unreachable(Option<ServerId>),
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Exists => Code::AlreadyExists,
            Self::Limit(_) | Self::InsufficientCapacity { .. } => Code::ResourceExhausted,
            Self::Stale => Code::Aborted,
            Self::InUse(_) => Code::FailedPrecondition,
            Self::Unreachable(_) => Code::Unavailable,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Exists => Reason::ServerExists,
            Self::Limit(_) => Reason::ServerLimitReached,
            Self::Stale => Reason::Conflict,
            Self::InUse(_) => Reason::ServerInUse,
            Self::InsufficientCapacity { .. } => Reason::QuotaExceeded,
            Self::Unreachable(_) => Reason::ServerUnreachable,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Limit(limit) => vec![("limit", limit.to_string())],
            Self::InUse(count) => vec![("environments", count.to_string())],
            Self::InsufficientCapacity { resource, requested, available } => vec![
                ("resource", (*resource).to_owned()),
                ("requested", requested.to_string()),
                ("available", available.to_string()),
            ],
            Self::Unreachable(Some(id)) => vec![("server_id", id.to_string())],
            Self::Exists | Self::Stale | Self::Unreachable(None) => vec![],
        }
    }
}

/// Fields of a server to be connected.
pub struct Draft {
    pub name: String,
    pub address: String,
    pub capacity: Option<Resources>,
}

/// New values of fields; `None` leaves a field unchanged.
#[derive(Default)]
pub struct Patch {
    pub name: Option<String>,
    pub address: Option<String>,
    /// `Some(None)` sets unlimited capacity.
    pub capacity: Option<Option<Resources>>,
    /// `Some(None)` removes the connection. The caller has loaded the connection.
    pub dns_connection_id: Option<Option<DnsConnectionId>>,
}

/// Number of servers of an organization, and the limit of its plan.
#[derive(Clone, Copy, Debug)]
pub struct ServerQuota {
    pub count: i64,
    /// `None`: unlimited.
    pub limit: Option<i64>,
}

impl Server {
    /// Connects a server, if the plan allows one more (PL-18). Its runner has not sent a heartbeat yet
    /// (PL-17).
    pub fn connect(
        org_id: OrgId,
        id: ServerId,
        draft: Draft,
        token_hash: Vec<u8>,
        quota: ServerQuota,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if let Some(limit) = quota.limit.filter(|it| quota.count >= *it) {
            return Err(Refused::Limit(limit));
        }
        let mut server = Self {
            id,
            org_id: Some(org_id),
            name: draft.name,
            address: draft.address,
            cpu_millis: None,
            memory_mb: None,
            disk_gb: None,
            token_hash: Some(token_hash),
            health: Health::Disconnected,
            isolation: String::new(),
            limits: String::new(),
            runner_version: String::new(),
            database_address: String::new(),
            dns_connection_id: None,
            apps_domain: String::new(),
            last_seen_at: None,
            version: 1,
            created_at: now,
        };
        server.set_capacity(draft.capacity);
        let event = pb::ServerConnected { after: Some((&server).into()) };
        let target = server.event_target();
        Ok(Changed::new(server, &event, target))
    }

    /// Applies a patch. `None`: every field already has its new value.
    pub fn update(mut self, patch: Patch, etag: &str) -> Result<Option<Changed<Self>>, Refused> {
        if !etag.is_empty() && etag != self.etag() {
            return Err(Refused::Stale);
        }
        let old = pb::Server::from(&self);
        self.name = patch.name.unwrap_or(self.name);
        self.address = patch.address.unwrap_or(self.address);
        if let Some(capacity) = patch.capacity {
            self.set_capacity(capacity);
        }
        self.dns_connection_id = patch.dns_connection_id.unwrap_or(self.dns_connection_id);
        if pb::Server::from(&self) == old {
            return Ok(None);
        }
        let event = pb::ServerUpdated { before: Some(old), after: Some((&self).into()) };
        let target = self.event_target();
        Ok(Some(Changed::new(self, &event, target)))
    }

    /// Replaces the agent token. The old one is invalid at once.
    pub fn rotate_token(mut self, token_hash: Vec<u8>) -> Changed<Self> {
        let before = Some((&self).into());
        self.token_hash = Some(token_hash);
        let event = pb::ServerTokenRotated { before, after: Some((&self).into()) };
        let target = self.event_target();
        Changed::new(self, &event, target)
    }

    /// Applies a heartbeat. The runner's capacity applies only to a connected server for which no person has
    /// set one.
    #[must_use]
    pub fn apply_heartbeat(&self, machine: &Machine, now: OffsetDateTime) -> Self {
        let mut server = Self {
            last_seen_at: Some(now),
            health: Health::Healthy,
            isolation: machine.isolation.clone(),
            limits: machine.limits.clone(),
            runner_version: machine.runner_version.clone(),
            database_address: machine.database_address.clone(),
            apps_domain: machine.apps_domain.clone(),
            ..self.clone()
        };
        if self.org_id.is_some() && self.capacity().is_none() && machine.capacity.is_some() {
            server.set_capacity(machine.capacity);
        }
        server
    }

    /// Event of a changed health; `None` if it is the same. Also `None` for a shared server, whose operator
    /// has metrics and logs.
    pub fn health_changed(self, before: &Self) -> Option<Changed<Self>> {
        if self.health == before.health || self.org_id.is_none() {
            return None;
        }
        let before = Some(before.into());
        let event = pb::ServerHealthChanged { before, after: Some((&self).into()) };
        let target = self.event_target();
        Some(Changed::new(self, &event, target))
    }

    /// Removes the server, if it has no environments (PL-19).
    pub fn remove(self, environments: i64) -> Result<Changed<Self>, Refused> {
        if environments > 0 {
            return Err(Refused::InUse(environments));
        }
        let event = pb::ServerRemoved { before: Some((&self).into()) };
        let target = self.event_target();
        Ok(Changed::new(self, &event, target))
    }

    /// Capacity for environments; `None`: unlimited.
    pub fn capacity(&self) -> Option<Resources> {
        Some(Resources {
            cpu_millis: self.cpu_millis?,
            memory_mb: self.memory_mb?,
            disk_gb: self.disk_gb?,
        })
    }

    /// `None` sets unlimited capacity.
    pub fn set_capacity(&mut self, capacity: Option<Resources>) {
        self.cpu_millis = capacity.map(|it| it.cpu_millis);
        self.memory_mb = capacity.map(|it| it.memory_mb);
        self.disk_gb = capacity.map(|it| it.disk_gb);
    }

    /// Refuses an environment for which the server has too little capacity left (PE-19). `allocated`:
    /// resources of the other environments on it.
    pub fn require_capacity(
        &self,
        requested: Resources,
        allocated: Allocated,
    ) -> Result<(), Refused> {
        let Some(capacity) = self.capacity() else { return Ok(()) };
        let rows = [
            ("cpu_millis", requested.cpu_millis, capacity.cpu_millis, allocated.cpu_millis),
            ("memory_mb", requested.memory_mb, capacity.memory_mb, allocated.memory_mb),
            ("disk_gb", requested.disk_gb, capacity.disk_gb, allocated.disk_gb),
        ];
        for (resource, requested, capacity, allocated) in rows {
            let requested = i64::from(requested);
            let available = (i64::from(capacity) - allocated).max(0);
            if requested > available {
                return Err(Refused::InsufficientCapacity { resource, requested, available });
            }
        }
        Ok(())
    }

    /// Refuses a server whose runner sends no heartbeats (PE-21, PL-20).
    pub fn require_reachable(&self, now: OffsetDateTime) -> Result<(), Refused> {
        require_reachable(Some(self.id), self.last_seen_at, now)
    }

    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    pub fn event_target(&self) -> EventTarget {
        let target = EventTarget::object("server", self.id, &self.name);
        match self.org_id {
            Some(org_id) => target.in_org(org_id),
            None => target,
        }
    }
}

/// Refuses a server whose runner sends no heartbeats (PE-21, PL-20). `None`: any shared server, with the last
/// heartbeat of all of them.
pub fn require_reachable(
    id: Option<ServerId>,
    last_seen_at: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Result<(), Refused> {
    match Health::at(last_seen_at, now) {
        Health::Healthy | Health::Degraded => Ok(()),
        Health::Disconnected | Health::Dead => Err(Refused::Unreachable(id)),
    }
}

/// Resources of environments on a server, summed up, and their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    pub cpu_millis: i64,
    pub memory_mb: i64,
    pub disk_gb: i64,
    pub environments: i64,
}

#[cfg(test)]
mod tests;
