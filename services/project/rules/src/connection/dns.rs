//! DNS connections: the credential with which records of one zone are published.

pub mod record;
mod settings;
pub mod wire;

use api::{error::Reason, project as pb};
use chassis::{
    Changed, Code, EventTarget, Grant, OrgId, Refusal, UserId, foreign_text::clean_line,
};
use time::OffsetDateTime;

pub use settings::{Draft, Patch, Server, Settings, TsigAlgorithm, name_violation};

use super::{CONNECTIONS_MAX, Refused, TestFailure};
use crate::types::DnsConnectionId;

/// Maximum length of the stored error of a test, in bytes.
const ERROR_BYTES_MAX: usize = 1_000;

/// Protocol by which records are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Dynamic updates, signed with TSIG.
    Rfc2136,
    /// HTTP API of the PowerDNS Authoritative Server.
    PowerDns,
    /// HTTP API of Cloudflare.
    Cloudflare,
}

chassis::text_column!(Provider {
    Rfc2136 = "rfc2136",
    PowerDns = "powerdns",
    Cloudflare = "cloudflare",
});

/// A DNS connection.
#[derive(Clone)]
pub struct DnsConnection {
    pub id: DnsConnectionId,
    pub org_id: OrgId,
    pub name: String,
    /// Zone in lower case, without a dot at its end; never changes.
    pub zone: String,
    /// Never changes.
    pub provider: Provider,
    /// Host and port for RFC 2136, the URL of the API for PowerDNS, empty for Cloudflare; never changes.
    pub server_address: String,
    /// Id of the server for PowerDNS, or of the zone for Cloudflare; empty for RFC 2136.
    pub remote_id: String,
    /// Name of the TSIG key for RFC 2136; otherwise empty.
    pub key_name: String,
    /// `Some` for RFC 2136.
    pub key_algorithm: Option<TsigAlgorithm>,
    /// Sealed TSIG key, API key or API token.
    pub sealed: Vec<u8>,
    pub is_default: bool,
    pub tested_at: OffsetDateTime,
    /// Error of the last test; empty if it passed.
    pub test_error: String,
    pub secret_updated_at: OffsetDateTime,
    /// Number of changes of settings, from 1 on; its text is the etag.
    pub version: i64,
    pub creator_id: UserId,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// Servers and records that use a connection.
#[derive(Default)]
pub struct Users {
    pub servers: i64,
    /// The oldest servers, at most [`super::LISTED_USERS_MAX`].
    pub listed: Vec<super::ConnectionUser>,
    pub records: i64,
}

/// Refusal to delete a connection that servers or records use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{servers} servers use the connection ({}), and it has {records} records; give the servers another \
     connection, and destroy the environments with records, first", .names.join(", ")
)]
pub struct InUse {
    servers: i64,
    names: Vec<String>,
    ids: Vec<String>,
    records: i64,
}

impl Refusal for InUse {
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }

    fn reason(&self) -> Reason {
        Reason::ConnectionInUse
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        vec![
            ("servers", self.servers.to_string()),
            ("server_ids", self.ids.join(",")),
            ("records", self.records.to_string()),
        ]
    }
}

impl DnsConnection {
    /// Creates a connection in the organization of the grant from settings whose test has passed. `count`:
    /// number of connections that the organization has.
    pub fn create(
        grant: &Grant,
        tested: Settings,
        count: i64,
        vault: &crate::variable::Vault,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if count >= CONNECTIONS_MAX {
            return Err(Refused::Limit(CONNECTIONS_MAX));
        }
        let mut connection = Self {
            id: DnsConnectionId::new(),
            org_id: grant.org_id(),
            name: String::new(),
            zone: tested.zone.clone(),
            provider: tested.server.provider(),
            server_address: tested.server.address(),
            remote_id: tested.server.remote_id(),
            key_name: String::new(),
            key_algorithm: None,
            sealed: vec![],
            is_default: false,
            tested_at: now,
            test_error: String::new(),
            secret_updated_at: now,
            version: 1,
            creator_id: grant.account().user_id,
            created_at: now,
            updated_at: now,
        };
        connection.store_settings(tested, vault, now);
        let event = pb::DnsConnectionCreated { after: Some((&connection).into()) };
        let target = connection.event_target();
        Ok(Changed::new(connection, &event, target))
    }

    /// Changes the name, and replaces the settings by those whose test has passed. `version`: the one that
    /// the settings were derived from. `None`: nothing changes.
    pub fn update(
        mut self,
        name: Option<String>,
        tested: Option<Settings>,
        version: i64,
        vault: &crate::variable::Vault,
        now: OffsetDateTime,
    ) -> Result<Option<Changed<Self>>, Refused> {
        self.require_version(version)?;
        let before = pb::DnsConnection::from(&self);
        if let Some(tested) = tested {
            self.store_settings(tested, vault, now);
            self.tested_at = now;
            self.test_error = String::new();
        }
        self.name = name.unwrap_or(self.name);
        if pb::DnsConnection::from(&self) == before {
            return Ok(None);
        }
        self.updated_at = now;
        let event = pb::DnsConnectionUpdated { before: Some(before), after: Some((&self).into()) };
        let target = self.event_target();
        Ok(Some(Changed::new(self, &event, target)))
    }

    /// Refuses another version than the one that was read.
    pub fn require_version(&self, version: i64) -> Result<(), Refused> {
        if version == self.version { Ok(()) } else { Err(Refused::Stale) }
    }

    /// Refuses an outdated etag; an empty one matches.
    pub fn require_etag(&self, etag: &str) -> Result<(), Refused> {
        if etag.is_empty() || etag == self.etag() { Ok(()) } else { Err(Refused::Stale) }
    }

    /// Records the result of a test with the stored settings.
    pub fn record_test(
        mut self,
        failure: Option<&TestFailure>,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        self.tested_at = now;
        let error = failure.map(ToString::to_string).unwrap_or_default();
        self.test_error = clean_line(&error, ERROR_BYTES_MAX);
        let event = pb::DnsConnectionTested { after: Some((&self).into()) };
        let target = self.event_target();
        let changed = Changed::new(self, &event, target);
        match failure {
            Some(failure) => changed.with_outcome(api::event::Outcome::Failed, failure.reason()),
            None => changed,
        }
    }

    /// Makes it the default connection in place of `before`. `None`: it is the default one already.
    pub fn set_default(mut self, before: Option<&Self>) -> Option<Changed<Self>> {
        if self.is_default {
            return None;
        }
        self.is_default = true;
        let before = before.map(Into::into);
        let event = pb::DnsConnectionDefaultSet { before, after: Some((&self).into()) };
        let target = self.event_target();
        Some(Changed::new(self, &event, target))
    }

    /// Deletes the connection, unless servers or records use it (PL-27).
    pub fn delete(self, users: Users) -> Result<Changed<Self>, InUse> {
        if users.servers > 0 || users.records > 0 {
            let (ids, names) = users.listed.into_iter().map(|it| (it.id, it.name)).unzip();
            return Err(InUse { servers: users.servers, names, ids, records: users.records });
        }
        let event = pb::DnsConnectionDeleted { before: Some((&self).into()) };
        let target = self.event_target();
        Ok(Changed::new(self, &event, target))
    }

    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    fn event_target(&self) -> EventTarget {
        EventTarget::object("dns_connection", self.id, &self.name).in_org(self.org_id)
    }
}
