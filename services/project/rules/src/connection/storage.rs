//! Storage connections: places for files, with the credential for them.

mod location;
mod settings;
pub mod wire;

use api::project as pb;
use chassis::{
    Changed, EventTarget, Grant, OrgId, Refusal, Result, UserId, foreign_text::clean_line,
};
use time::OffsetDateTime;

pub use location::{FolderLocation, Kind, Location, ObjectPath, S3Location, SftpLocation};
pub use settings::{Draft, Patch, Settings, StorageAccess, Tested};

use super::{CONNECTIONS_MAX, Refused, StorageConsumers, TestFailure};
use crate::{
    types::{DeployKeyId, StorageConnectionId},
    variable::Vault,
};

/// Maximum length of the stored error of a test, in bytes.
const ERROR_BYTES_MAX: usize = 1_000;

/// A storage connection. The columns of its location are those of [`Location`]; columns that its kind does
/// not have are empty.
#[derive(Clone)]
pub struct StorageConnection {
    pub id: StorageConnectionId,
    pub org_id: OrgId,
    pub name: String,
    /// Never changes.
    pub kind: Kind,
    /// Never changes.
    pub server_url: String,
    pub region: String,
    pub bucket: String,
    pub path: String,
    /// Access key id, or name of the account.
    pub username: String,
    pub path_style: bool,
    /// `Some` for SFTP.
    pub deploy_key_id: Option<DeployKeyId>,
    /// Sealed secret access key, or private half of the deploy key; empty for a folder.
    pub sealed: Vec<u8>,
    /// Public half of the deploy key.
    pub public_key: String,
    /// `<type> <base64>`, for SFTP.
    pub host_key: String,
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

impl StorageConnection {
    /// Creates a connection in the organization of the grant from settings whose test has passed. `count`:
    /// number of connections that the organization has.
    pub fn create(
        grant: &Grant,
        tested: Tested,
        count: i64,
        vault: &Vault,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if count >= CONNECTIONS_MAX {
            return Err(Refused::Limit(CONNECTIONS_MAX));
        }
        let mut connection = Self {
            id: StorageConnectionId::new(),
            org_id: grant.org_id(),
            name: String::new(),
            kind: tested.location().kind(),
            server_url: tested.location().server_url(),
            region: String::new(),
            bucket: String::new(),
            path: String::new(),
            username: String::new(),
            path_style: false,
            deploy_key_id: None,
            sealed: vec![],
            public_key: String::new(),
            host_key: String::new(),
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
        let event = pb::StorageConnectionCreated { after: Some((&connection).into()) };
        let target = connection.event_target();
        Ok(Changed::new(connection, &event, target))
    }

    /// Changes the name, and replaces the settings by those whose test has passed. `version`: the one that
    /// the settings were derived from. `None`: nothing changes.
    pub fn update(
        mut self,
        name: Option<String>,
        tested: Option<Tested>,
        version: i64,
        vault: &Vault,
        now: OffsetDateTime,
    ) -> Result<Option<Changed<Self>>, Refused> {
        self.require_version(version)?;
        let before = pb::StorageConnection::from(&self);
        if let Some(tested) = tested {
            self.store_settings(tested, vault, now);
            self.tested_at = now;
            self.test_error = String::new();
        }
        self.name = name.unwrap_or(self.name);
        if pb::StorageConnection::from(&self) == before {
            return Ok(None);
        }
        self.updated_at = now;
        let event =
            pb::StorageConnectionUpdated { before: Some(before), after: Some((&self).into()) };
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
        let event = pb::StorageConnectionTested { after: Some((&self).into()) };
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
        let event = pb::StorageConnectionDefaultSet { before, after: Some((&self).into()) };
        let target = self.event_target();
        Some(Changed::new(self, &event, target))
    }

    /// Deletes the connection, unless it is used (PL-27).
    pub fn delete(self, consumers: StorageConsumers) -> Result<Changed<Self>, Refused> {
        if let Some(refused) = Refused::storage_in_use(consumers) {
            return Err(refused);
        }
        let event = pb::StorageConnectionDeleted { before: Some((&self).into()) };
        let target = self.event_target();
        Ok(Changed::new(self, &event, target))
    }

    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    fn event_target(&self) -> EventTarget {
        EventTarget::object("storage_connection", self.id, &self.name).in_org(self.org_id)
    }
}
