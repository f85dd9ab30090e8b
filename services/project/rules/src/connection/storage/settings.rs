//! Settings of a storage connection with their secret decrypted: what a test checks and a connection stores.

use api::project::SshCredential;
use chassis::{Error, OrgId, Result, git_credential::GitCredential};
use time::OffsetDateTime;

use super::{
    FolderLocation, Kind, Location, ObjectPath, S3Location, SftpLocation, StorageConnection,
};
use crate::{
    connection::deploy_key::{self, OpenDeployKey},
    repository::Endpoint,
    types::{DeployKeyId, StorageConnectionId},
    variable::Vault,
};

/// Secret of a location. Has no `Debug`, so that it is in no log.
#[derive(Clone)]
enum Secret {
    AccessKey(String),
    DeployKey(OpenDeployKey),
    /// A folder has no secret.
    None,
}

/// Settings of a connection.
#[derive(Clone)]
pub struct Settings {
    name: String,
    location: Location,
    secret: Secret,
    /// Expected host key, for SFTP; empty accepts any.
    host_key: String,
}

/// Location with the credential for it.
pub enum StorageAccess {
    S3 { location: S3Location, secret_access_key: String },
    Sftp { location: SftpLocation, credential: GitCredential, has_host_key: bool },
    Folder { location: FolderLocation, org_id: OrgId },
}

/// Settings whose test has passed.
pub struct Tested {
    settings: Settings,
    /// Host key of the server; empty unless SFTP.
    host_key: String,
}

/// Fields of a connection to be created.
pub struct Draft {
    pub(super) name: String,
    pub(super) location: Location,
    pub(super) secret_access_key: String,
    /// `Some` for SFTP.
    pub deploy_key_id: Option<DeployKeyId>,
    pub(super) host_key: String,
}

/// New values of fields; `None` leaves a field unchanged.
#[derive(Default)]
pub struct Patch {
    pub name: Option<String>,
    pub(super) location: Option<Location>,
    pub(super) secret_access_key: Option<String>,
    pub deploy_key_id: Option<DeployKeyId>,
    pub(super) host_key: Option<String>,
}

impl Draft {
    /// Completes the draft with its deploy key, which is `Some` if [`Draft::deploy_key_id`] is.
    pub fn settings(self, deploy_key: Option<OpenDeployKey>) -> Settings {
        let secret = match (&self.location, deploy_key) {
            (Location::Sftp(_), Some(key)) => Secret::DeployKey(key),
            (Location::S3(_), _) => Secret::AccessKey(self.secret_access_key),
            _ => Secret::None,
        };
        Settings { name: self.name, location: self.location, secret, host_key: self.host_key }
    }
}

impl Patch {
    /// True if anything but the name changes.
    pub fn changes_settings(&self) -> bool {
        let is_secret_new = self.secret_access_key.is_some() || self.deploy_key_id.is_some();
        is_secret_new || self.location.is_some() || self.host_key.is_some()
    }
}

impl Settings {
    /// Applies a patch, with its deploy key. Without a new secret, the stored one is kept (PL-28). It is for
    /// one server, so that nobody sends a stored secret to another one.
    pub fn patched(mut self, patch: Patch, deploy_key: Option<OpenDeployKey>) -> Result<Self> {
        if let Some(location) = patch.location {
            let kind = location.kind();
            if kind != self.location.kind() {
                let kind = kind.column_text();
                let description =
                    "must be of the kind of the connection; create another connection";
                return Err(Error::invalid(kind, description));
            }
            if location.server_url() != self.location.server_url() {
                let field = if kind == Kind::S3 { "s3.endpoint" } else { "sftp.host" };
                let description = format!(
                    "must be {}, the server of the connection; create another connection for another server",
                    self.location.server_url()
                );
                return Err(Error::invalid(field, description));
            }
            self.location = location;
        }
        if let Some(key) = patch.secret_access_key {
            if self.location.kind() != Kind::S3 {
                let description = "must be empty, because the connection is not to a bucket";
                return Err(Error::invalid("secret_access_key", description));
            }
            self.secret = Secret::AccessKey(key);
        }
        if let Some(key) = deploy_key {
            if self.location.kind() != Kind::Sftp {
                let description = "must be empty, because the connection does not use SFTP";
                return Err(Error::invalid("deploy_key_id", description));
            }
            self.secret = Secret::DeployKey(key);
        }
        self.host_key = patch.host_key.unwrap_or(self.host_key);
        Ok(self)
    }

    /// Returns the location with the credential for it, for an organization.
    pub fn access(&self, org_id: OrgId) -> Result<StorageAccess> {
        Ok(match (&self.location, &self.secret) {
            (Location::S3(location), Secret::AccessKey(key)) => {
                StorageAccess::S3 { location: location.clone(), secret_access_key: key.clone() }
            }
            (Location::Sftp(location), Secret::DeployKey(key)) => StorageAccess::Sftp {
                location: location.clone(),
                credential: GitCredential::Ssh(SshCredential {
                    private_key: key.private_key.clone(),
                    host_key: self.host_key.clone(),
                }),
                has_host_key: !self.host_key.is_empty(),
            },
            (Location::Folder(location), _) => {
                StorageAccess::Folder { location: location.clone(), org_id }
            }
            _ => return Err(anyhow::anyhow!("the storage connection has no secret").into()),
        })
    }

    /// Marks the settings as tested, with the host key that the server had.
    pub fn tested(self, host_key: String) -> Tested {
        Tested { settings: self, host_key }
    }
}

impl Tested {
    pub(super) fn location(&self) -> &Location {
        &self.settings.location
    }
}

/// Name of a secret access key in the vault. It cannot be decrypted for another connection or server.
fn access_key_name(id: StorageConnectionId, server_url: &str) -> String {
    format!("secret access key of the storage connection {id} for {server_url}")
}

impl StorageConnection {
    /// Returns the settings with their secret decrypted.
    pub fn settings(&self, vault: &Vault) -> Result<Settings> {
        Ok(Settings {
            name: self.name.clone(),
            location: self.location()?,
            secret: self.secret(vault)?,
            host_key: self.host_key.clone(),
        })
    }

    fn location(&self) -> Result<Location> {
        let endpoint = || {
            Endpoint::of(&self.server_url)
                .ok_or_else(|| anyhow::anyhow!("{:?} has no server", self.server_url))
        };
        let path = || {
            ObjectPath::parse(&self.path)
                .ok_or_else(|| anyhow::anyhow!("{:?} is not a path", self.path))
        };
        Ok(match self.kind {
            Kind::S3 => Location::S3(S3Location {
                endpoint: endpoint()?,
                region: self.region.clone(),
                bucket: self.bucket.clone(),
                prefix: path()?,
                access_key_id: self.username.clone(),
                path_style: self.path_style,
            }),
            Kind::Sftp => Location::Sftp(SftpLocation {
                endpoint: endpoint()?,
                username: self.username.clone(),
                path: self.path.clone(),
            }),
            Kind::Folder => Location::Folder(FolderLocation { path: path()? }),
        })
    }

    fn secret(&self, vault: &Vault) -> Result<Secret> {
        let open = |name: &str| vault.unseal(self.org_id, name, &self.sealed);
        match (self.kind, self.deploy_key_id) {
            (Kind::S3, _) => {
                Ok(Secret::AccessKey(open(&access_key_name(self.id, &self.server_url))?))
            }
            (Kind::Sftp, Some(id)) => {
                let private_key = open(&deploy_key::sealed_name(id))?;
                let public_key = self.public_key.clone();
                Ok(Secret::DeployKey(OpenDeployKey { id, private_key, public_key }))
            }
            _ => Ok(Secret::None),
        }
    }

    /// Encrypts and stores tested settings. A secret that is the stored one is not encrypted again.
    pub(super) fn store_settings(&mut self, tested: Tested, vault: &Vault, now: OffsetDateTime) {
        let stored = self.secret(vault).ok().filter(|_| !self.sealed.is_empty());
        let Tested { settings, host_key } = tested;
        self.name = settings.name;
        settings.location.username().clone_into(&mut self.username);
        settings.location.path().clone_into(&mut self.path);
        if let Location::S3(bucket) = settings.location {
            self.region = bucket.region;
            self.bucket = bucket.bucket;
            self.path_style = bucket.path_style;
        }
        self.host_key = host_key;
        match (settings.secret, stored) {
            (Secret::None, _) => return,
            (Secret::AccessKey(key), Some(Secret::AccessKey(stored))) if key == stored => return,
            (Secret::DeployKey(key), Some(Secret::DeployKey(stored))) if key.id == stored.id => {
                return;
            }
            (Secret::AccessKey(key), _) => {
                let name = access_key_name(self.id, &self.server_url);
                self.sealed = vault.seal(self.org_id, &name, &key);
            }
            (Secret::DeployKey(key), _) => {
                let name = deploy_key::sealed_name(key.id);
                self.sealed = vault.seal(self.org_id, &name, &key.private_key);
                self.deploy_key_id = Some(key.id);
                self.public_key = key.public_key;
            }
        }
        self.secret_updated_at = now;
    }
}
