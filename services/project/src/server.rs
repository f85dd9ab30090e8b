//! Servers: the machines that environments run on, connected by organizations or shared by the platform.
//!
//! | concept | file |
//! |---|---|
//! | what a server is, what fits on it, how it is | here, `health` |
//! | for people | `rpc` |
//! | who a runner is | `agent` |
//! | what a runner says of its machine and its environments | `heartbeat`, `report` |

pub(crate) mod agent;
mod health;
pub(crate) mod heartbeat;
pub(crate) mod report;
pub(crate) mod rpc;
pub(crate) mod store;
pub(crate) mod wire;

use api::{error::Reason, project as pb};
use chassis::{About, Changed, Code, OrgId, Refusal};
use time::OffsetDateTime;

pub(crate) use health::Health;

chassis::id!(
    /// Identifies a server.
    ServerId,
    "server"
);

/// Processor time, memory and disk: what a server has, or an environment takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// Thousandths of a core.
    pub(crate) cpu_millis: i32,
    pub(crate) memory_mb: i32,
    pub(crate) disk_gb: i32,
}

/// A machine.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) id: ServerId,
    /// `None`: shared.
    pub(crate) org_id: Option<OrgId>,
    pub(crate) name: String,
    pub(crate) address: String,
    /// What environments may take together; all three or none.
    pub(crate) cpu_millis: Option<i32>,
    pub(crate) memory_mb: Option<i32>,
    pub(crate) disk_gb: Option<i32>,
    pub(crate) token_hash: Option<Vec<u8>>,
    /// As it was last told; [`Server::health_at`] says how it is.
    pub(crate) health: Health,
    pub(crate) isolation: String,
    pub(crate) limits: String,
    pub(crate) runner_version: String,
    /// Where programs reach its databases; empty if there are none.
    pub(crate) database_address: String,
    pub(crate) last_seen_at: Option<OffsetDateTime>,
    pub(crate) version: i64,
    pub(crate) created_at: OffsetDateTime,
}

/// A runner that proved which server it is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agent {
    pub(crate) server_id: ServerId,
    pub(crate) shared: bool,
}

/// Why a server does not come to be, take an environment, or go.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the organization has a server at this address")]
    Exists,
    #[error("the plan allows {0} servers; remove one or upgrade")]
    Limit(i64),
    #[error("somebody changed the server meanwhile; read it again")]
    Stale,
    #[error("{0} environments are placed on the server; destroy them first")]
    InUse(i64),
    #[error("the server has {available} {resource} left, and {requested} are asked for")]
    Full { resource: &'static str, requested: i64, available: i64 },
    #[error("the server's runner does not call; look whether tenantry-runner goes there")]
    Unreachable(Option<ServerId>),
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Exists => Code::AlreadyExists,
            Self::Limit(_) | Self::Full { .. } => Code::ResourceExhausted,
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
            Self::Full { .. } => Reason::QuotaExceeded,
            Self::Unreachable(_) => Reason::ServerUnreachable,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Limit(limit) => vec![("limit", limit.to_string())],
            Self::InUse(count) => vec![("environments", count.to_string())],
            Self::Full { resource, requested, available } => vec![
                ("resource", (*resource).to_owned()),
                ("requested", requested.to_string()),
                ("available", available.to_string()),
            ],
            Self::Unreachable(Some(id)) => vec![("server_id", id.to_string())],
            Self::Exists | Self::Stale | Self::Unreachable(None) => vec![],
        }
    }
}

/// What a person gives to connect a server.
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) capacity: Option<Room>,
}

/// What changes; `None` stays.
#[derive(Default)]
pub(crate) struct Patch {
    pub(crate) name: Option<String>,
    pub(crate) address: Option<String>,
    #[expect(clippy::option_option, reason = "to unlimited is a change")]
    pub(crate) capacity: Option<Option<Room>>,
}

impl Server {
    /// A new server, whose runner has not called yet (PL-17). `others`: how many the organization has, of as
    /// many as its plan allows (PL-18).
    pub(crate) fn connect(
        org_id: OrgId,
        id: ServerId,
        draft: Draft,
        token_hash: Vec<u8>,
        (others, limit): (i64, Option<i64>),
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if let Some(limit) = limit.filter(|it| others >= *it) {
            return Err(Refused::Limit(limit));
        }
        let mut it = Self {
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
            last_seen_at: None,
            version: 1,
            created_at: now,
        };
        it.give(draft.capacity);
        let event = pb::ServerConnected { after: Some((&it).into()) };
        let about = it.about();
        Ok(Changed::new(it, &event, about))
    }

    /// Takes the changes. `None`: nothing changes.
    pub(crate) fn edit(
        mut self,
        patch: Patch,
        etag: &str,
    ) -> Result<Option<Changed<Self>>, Refused> {
        if !etag.is_empty() && etag != self.etag() {
            return Err(Refused::Stale);
        }
        let old = pb::Server::from(&self);
        self.name = patch.name.unwrap_or(self.name);
        self.address = patch.address.unwrap_or(self.address);
        if let Some(capacity) = patch.capacity {
            self.give(capacity);
        }
        if pb::Server::from(&self) == old {
            return Ok(None);
        }
        let event = pb::ServerUpdated { before: Some(old), after: Some((&self).into()) };
        let about = self.about();
        Ok(Some(Changed::new(self, &event, about)))
    }

    /// Another token; the old one ends.
    pub(crate) fn rotate(mut self, token_hash: Vec<u8>) -> Changed<Self> {
        let before = Some((&self).into());
        self.token_hash = Some(token_hash);
        let event = pb::ServerTokenRotated { before, after: Some((&self).into()) };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    /// It goes, if nothing is on it (PL-19).
    pub(crate) fn remove(self, environments: i64) -> Result<Changed<Self>, Refused> {
        if environments > 0 {
            return Err(Refused::InUse(environments));
        }
        let event = pb::ServerRemoved { before: Some((&self).into()) };
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    /// What environments may take together, if that is limited.
    pub(crate) fn capacity(&self) -> Option<Room> {
        Some(Room {
            cpu_millis: self.cpu_millis?,
            memory_mb: self.memory_mb?,
            disk_gb: self.disk_gb?,
        })
    }

    pub(crate) fn give(&mut self, capacity: Option<Room>) {
        self.cpu_millis = capacity.map(|it| it.cpu_millis);
        self.memory_mb = capacity.map(|it| it.memory_mb);
        self.disk_gb = capacity.map(|it| it.disk_gb);
    }

    /// Whether an environment of this size still fits beside what the others have (PE-19).
    pub(crate) fn has_room(&self, room: Room, allocated: Allocated) -> Result<(), Refused> {
        let Some(capacity) = self.capacity() else { return Ok(()) };
        let rows = [
            ("cpu_millis", room.cpu_millis, capacity.cpu_millis, allocated.cpu_millis),
            ("memory_mb", room.memory_mb, capacity.memory_mb, allocated.memory_mb),
            ("disk_gb", room.disk_gb, capacity.disk_gb, allocated.disk_gb),
        ];
        for (resource, requested, capacity, allocated) in rows {
            let (requested, available) =
                (i64::from(requested), (i64::from(capacity) - allocated).max(0));
            if requested > available {
                return Err(Refused::Full { resource, requested, available });
            }
        }
        Ok(())
    }

    /// Whether its runner calls, so that something can be asked of it (PE-21, PL-20).
    pub(crate) fn reachable(&self, now: OffsetDateTime) -> Result<(), Refused> {
        match Health::at(self.last_seen_at, now) {
            Health::Healthy | Health::Degraded => Ok(()),
            Health::Disconnected | Health::Dead => Err(Refused::Unreachable(Some(self.id))),
        }
    }

    pub(crate) fn etag(&self) -> String {
        self.version.to_string()
    }

    pub(crate) fn about(&self) -> About {
        let about = About::object("server", self.id, &self.name);
        match self.org_id {
            Some(org_id) => about.of(org_id),
            None => about,
        }
    }
}

/// What environments have of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allocated {
    pub(crate) cpu_millis: i64,
    pub(crate) memory_mb: i64,
    pub(crate) disk_gb: i64,
    pub(crate) environments: i64,
}

#[cfg(test)]
mod tests;
