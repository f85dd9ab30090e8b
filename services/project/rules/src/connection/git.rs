//! Git connections: the credential for the repositories of one Git server.

pub mod host_api;
mod settings;
pub mod wire;

use api::project as pb;
use chassis::{
    Changed, EventTarget, Grant, OrgId, Refusal, Result, UserId, foreign_text::clean_line,
    git_credential::GitCredential,
};
use time::OffsetDateTime;

pub use settings::{Draft, Patch, Probe, Settings, Tested};

use super::{CONNECTIONS_MAX, ConnectionUsers, Refused, TestFailure};
use crate::{
    types::{DeployKeyId, GitConnectionId},
    variable::Vault,
};

/// Maximum length of the stored error of a test, in bytes.
const ERROR_BYTES_MAX: usize = 1_000;

/// Kind of a Git server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    Other,
    GitHub,
    GitLab,
    /// Gitea and Forgejo.
    Gitea,
}

chassis::text_column!(Provider {
    Other = "other",
    GitHub = "github",
    GitLab = "gitlab",
    Gitea = "gitea",
});

impl Provider {
    /// User name that the server expects with an access token.
    fn default_username(self) -> &'static str {
        match self {
            Self::Other | Self::Gitea => "git",
            Self::GitHub => "x-access-token",
            Self::GitLab => "oauth2",
        }
    }
}

/// A Git connection.
#[derive(Clone)]
pub struct GitConnection {
    pub id: GitConnectionId,
    pub org_id: OrgId,
    pub name: String,
    pub provider: Provider,
    /// Scheme, host and port of the repositories; never changes.
    pub server_url: String,
    pub test_repository_url: String,
    /// Empty for SSH.
    pub username: String,
    /// `Some` for SSH, `None` for HTTPS.
    pub deploy_key_id: Option<DeployKeyId>,
    /// Sealed access token, or private half of the deploy key.
    pub sealed: Vec<u8>,
    /// Public half of the deploy key; empty for HTTPS.
    pub public_key: String,
    /// `<type> <base64>`; empty for HTTPS.
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

impl GitConnection {
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
            id: GitConnectionId::new(),
            org_id: grant.org_id(),
            name: String::new(),
            provider: Provider::Other,
            server_url: tested.server_url(),
            test_repository_url: String::new(),
            username: String::new(),
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
        let event = pb::GitConnectionCreated { after: Some((&connection).into()) };
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
        let before = pb::GitConnection::from(&self);
        if let Some(tested) = tested {
            self.store_settings(tested, vault, now);
            self.tested_at = now;
            self.test_error = String::new();
        }
        self.name = name.unwrap_or(self.name);
        if pb::GitConnection::from(&self) == before {
            return Ok(None);
        }
        self.updated_at = now;
        let event = pb::GitConnectionUpdated { before: Some(before), after: Some((&self).into()) };
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
        let event = pb::GitConnectionTested { after: Some((&self).into()) };
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
        let event = pb::GitConnectionDefaultSet { before, after: Some((&self).into()) };
        let target = self.event_target();
        Some(Changed::new(self, &event, target))
    }

    /// Deletes the connection, unless projects use it (PL-27).
    pub fn delete(self, users: ConnectionUsers) -> Result<Changed<Self>, Refused> {
        if let Some(refused) = Refused::in_use(users) {
            return Err(refused);
        }
        let event = pb::GitConnectionDeleted { before: Some((&self).into()) };
        let target = self.event_target();
        Ok(Changed::new(self, &event, target))
    }

    /// Decrypts the credential.
    pub fn credential(&self, vault: &Vault) -> Result<GitCredential> {
        Ok(self.settings(vault)?.credential())
    }

    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    fn event_target(&self) -> EventTarget {
        EventTarget::object("git_connection", self.id, &self.name).in_org(self.org_id)
    }
}
