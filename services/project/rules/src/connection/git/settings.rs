//! Settings of a Git connection with their secret decrypted: what a test checks and a connection stores.

use api::project::{RepositoryCredential, SshCredential};
use chassis::{Error, Result, git_credential::GitCredential};
use time::OffsetDateTime;

use super::{GitConnection, Provider};
use crate::{
    connection::deploy_key::{self, OpenDeployKey},
    repository::Endpoint,
    types::{DeployKeyId, GitConnectionId},
    variable::Vault,
};

/// An access token, or a deploy key. Has no `Debug`, so that it is in no log.
#[derive(Clone)]
pub(super) enum Secret {
    Token(String),
    DeployKey(OpenDeployKey),
}

/// Settings of a connection.
#[derive(Clone)]
pub struct Settings {
    pub(super) name: String,
    pub(super) provider: Provider,
    pub(super) test_repository_url: String,
    pub(super) endpoint: Endpoint,
    /// Empty for a deploy key.
    pub(super) username: String,
    pub(super) secret: Secret,
    /// Expected host key; empty accepts any.
    pub(super) host_key: String,
}

/// Test of settings: a connection to a repository.
pub struct Probe {
    pub url: String,
    pub endpoint: Endpoint,
    pub credential: GitCredential,
    /// True if the server must have the host key of the credential.
    pub has_host_key: bool,
}

/// Settings whose test has passed.
pub struct Tested {
    settings: Settings,
    /// Host key of the server; empty for HTTPS.
    host_key: String,
}

/// Fields of a connection to be created.
pub struct Draft {
    pub(super) name: String,
    pub(super) provider: Provider,
    pub(super) test_repository_url: String,
    pub(super) endpoint: Endpoint,
    pub(super) username: String,
    pub(super) token: String,
    /// `Some` for SSH, `None` for HTTPS.
    pub deploy_key_id: Option<DeployKeyId>,
    pub(super) host_key: String,
}

/// New values of fields; `None` leaves a field unchanged.
#[derive(Default)]
pub struct Patch {
    pub name: Option<String>,
    pub(super) provider: Option<Provider>,
    /// URL with its server.
    pub(super) test_repository: Option<(String, Endpoint)>,
    /// Empty: the default of the provider.
    pub(super) username: Option<String>,
    pub(super) token: Option<String>,
    pub deploy_key_id: Option<DeployKeyId>,
    /// Empty: the key that the server has now.
    pub(super) host_key: Option<String>,
}

impl Draft {
    /// Completes the draft with its deploy key, which is `Some` if [`Draft::deploy_key_id`] is.
    pub fn settings(self, deploy_key: Option<OpenDeployKey>) -> Settings {
        let username = match deploy_key {
            Some(_) => String::new(),
            None if self.username.is_empty() => self.provider.default_username().to_owned(),
            None => self.username,
        };
        Settings {
            name: self.name,
            provider: self.provider,
            test_repository_url: self.test_repository_url,
            endpoint: self.endpoint,
            username,
            secret: deploy_key.map_or_else(|| Secret::Token(self.token), Secret::DeployKey),
            host_key: self.host_key,
        }
    }
}

impl Patch {
    /// True if anything but the name changes.
    pub fn changes_settings(&self) -> bool {
        let is_secret_new = self.token.is_some() || self.deploy_key_id.is_some();
        let is_server_new = self.test_repository.is_some() || self.host_key.is_some();
        is_secret_new || is_server_new || self.provider.is_some() || self.username.is_some()
    }
}

impl Settings {
    /// Applies a patch, with its deploy key. Without a new secret, the stored one is kept (PL-28). It is for
    /// one server, so that nobody sends a stored secret to another one.
    pub fn patched(mut self, patch: Patch, deploy_key: Option<OpenDeployKey>) -> Result<Self> {
        if let Some((url, endpoint)) = patch.test_repository {
            if endpoint != self.endpoint {
                let description = format!(
                    "must be on {}, the server of the connection; create another connection for another \
                     server",
                    self.endpoint
                );
                return Err(Error::invalid("test_repository_url", description));
            }
            self.test_repository_url = url;
        }
        self.provider = patch.provider.unwrap_or(self.provider);
        match &self.secret {
            Secret::Token(_) => {
                let must_be_empty = "must be empty, because the connection uses HTTPS";
                if deploy_key.is_some() {
                    return Err(Error::invalid("deploy_key_id", must_be_empty));
                }
                if patch.host_key.is_some_and(|it| !it.is_empty()) {
                    return Err(Error::invalid("host_key", must_be_empty));
                }
                if let Some(username) = patch.username {
                    let default = || self.provider.default_username().to_owned();
                    self.username =
                        Some(username).filter(|it| !it.is_empty()).unwrap_or_else(default);
                }
            }
            Secret::DeployKey(_) => {
                let must_be_empty = "must be empty, because the connection uses SSH";
                if patch.token.is_some() {
                    return Err(Error::invalid("token", must_be_empty));
                }
                if patch.username.is_some_and(|it| !it.is_empty()) {
                    return Err(Error::invalid("username", must_be_empty));
                }
                self.host_key = patch.host_key.unwrap_or(self.host_key);
            }
        }
        let new_secret = patch.token.map(Secret::Token);
        self.secret = new_secret.or(deploy_key.map(Secret::DeployKey)).unwrap_or(self.secret);
        Ok(self)
    }

    pub(super) fn credential(&self) -> GitCredential {
        match &self.secret {
            Secret::Token(token) => GitCredential::Password(RepositoryCredential {
                scope: self.endpoint.to_string(),
                username: self.username.clone(),
                password: token.clone(),
            }),
            Secret::DeployKey(key) => GitCredential::Ssh(SshCredential {
                private_key: key.private_key.clone(),
                host_key: self.host_key.clone(),
            }),
        }
    }

    /// Returns the test of the settings.
    pub fn probe(&self) -> Probe {
        Probe {
            url: self.test_repository_url.clone(),
            endpoint: self.endpoint.clone(),
            credential: self.credential(),
            has_host_key: !self.host_key.is_empty(),
        }
    }

    /// Marks the settings as tested, with the host key that the server had.
    pub fn tested(self, host_key: String) -> Tested {
        Tested { settings: self, host_key }
    }
}

impl Tested {
    pub(super) fn server_url(&self) -> String {
        self.settings.endpoint.to_string()
    }
}

/// Name of an access token in the vault. It cannot be decrypted for another connection or server.
fn token_name(id: GitConnectionId, server_url: &str) -> String {
    format!("token of the Git connection {id} for {server_url}")
}

impl GitConnection {
    /// Returns the settings with their secret decrypted.
    pub fn settings(&self, vault: &Vault) -> Result<Settings> {
        let endpoint = Endpoint::of(&self.test_repository_url);
        let endpoint = endpoint
            .ok_or_else(|| anyhow::anyhow!("{} has no server", self.test_repository_url))?;
        Ok(Settings {
            name: self.name.clone(),
            provider: self.provider,
            test_repository_url: self.test_repository_url.clone(),
            endpoint,
            username: self.username.clone(),
            secret: self.secret(vault)?,
            host_key: self.host_key.clone(),
        })
    }

    fn secret(&self, vault: &Vault) -> Result<Secret> {
        let open = |name: &str| vault.unseal(self.org_id, name, &self.sealed);
        let Some(id) = self.deploy_key_id else {
            return Ok(Secret::Token(open(&token_name(self.id, &self.server_url))?));
        };
        let private_key = open(&deploy_key::sealed_name(id))?;
        let public_key = self.public_key.clone();
        Ok(Secret::DeployKey(OpenDeployKey { id, private_key, public_key }))
    }

    /// Encrypts and stores tested settings. A secret that is the stored one is not encrypted again.
    pub(super) fn store_settings(&mut self, tested: Tested, vault: &Vault, now: OffsetDateTime) {
        let stored = self.secret(vault).ok().filter(|_| !self.sealed.is_empty());
        let Tested { settings, host_key } = tested;
        self.name = settings.name;
        self.provider = settings.provider;
        self.test_repository_url = settings.test_repository_url;
        self.username = settings.username;
        self.host_key = host_key;
        match (settings.secret, stored) {
            (Secret::Token(token), Some(Secret::Token(stored))) if token == stored => return,
            (Secret::DeployKey(key), Some(Secret::DeployKey(stored))) if key.id == stored.id => {
                return;
            }
            (Secret::Token(token), _) => {
                let name = token_name(self.id, &self.server_url);
                self.sealed = vault.seal(self.org_id, &name, &token);
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
