//! Settings of a DNS connection with their secret decrypted: what a test checks and a connection stores.

use chassis::{Error, Result};
use time::OffsetDateTime;

use super::{DnsConnection, Provider};
use crate::{types::DnsConnectionId, variable::Vault};

/// Algorithm of a TSIG key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TsigAlgorithm {
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

chassis::text_column!(TsigAlgorithm {
    HmacSha256 = "hmac-sha256",
    HmacSha384 = "hmac-sha384",
    HmacSha512 = "hmac-sha512",
});

/// DNS server of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    Rfc2136 {
        /// Host name in lower case, or IP address; an IPv6 address is in brackets.
        host: String,
        port: u16,
        key_name: String,
        algorithm: TsigAlgorithm,
    },
    PowerDns {
        /// URL without a path.
        api_url: String,
        server_id: String,
    },
    Cloudflare {
        /// Empty: the id that the API returns for the name of the zone.
        zone_id: String,
    },
}

impl Server {
    pub fn provider(&self) -> Provider {
        match self {
            Self::Rfc2136 { .. } => Provider::Rfc2136,
            Self::PowerDns { .. } => Provider::PowerDns,
            Self::Cloudflare { .. } => Provider::Cloudflare,
        }
    }

    pub(super) fn address(&self) -> String {
        match self {
            Self::Rfc2136 { host, port, .. } => format!("{host}:{port}"),
            Self::PowerDns { api_url, .. } => api_url.clone(),
            Self::Cloudflare { .. } => String::new(),
        }
    }

    pub(super) fn remote_id(&self) -> String {
        match self {
            Self::Rfc2136 { .. } => String::new(),
            Self::PowerDns { server_id, .. } => server_id.clone(),
            Self::Cloudflare { zone_id } => zone_id.clone(),
        }
    }
}

/// Settings of a connection. Has no `Debug`, so that the secret is in no log.
#[derive(Clone)]
pub struct Settings {
    pub(super) name: String,
    /// Zone in lower case, without a dot at its end.
    pub zone: String,
    pub server: Server,
    /// TSIG key in Base64, API key or API token.
    pub secret: String,
}

/// Settings of a connection to be created.
pub type Draft = Settings;

/// New values of fields; `None` leaves a field unchanged.
#[derive(Default)]
pub struct Patch {
    pub name: Option<String>,
    pub(super) key_name: Option<String>,
    pub(super) algorithm: Option<TsigAlgorithm>,
    pub(super) secret: Option<String>,
}

impl Patch {
    /// True if anything but the name changes.
    pub fn changes_settings(&self) -> bool {
        self.key_name.is_some() || self.algorithm.is_some() || self.secret.is_some()
    }
}

impl Settings {
    /// Applies a patch. Without a new secret, the stored one is kept (PL-28).
    pub fn patched(mut self, patch: Patch) -> Result<Self> {
        match &mut self.server {
            Server::Rfc2136 { key_name, algorithm, .. } => {
                if let Some(new) = patch.key_name {
                    *key_name = new;
                }
                *algorithm = patch.algorithm.unwrap_or(*algorithm);
            }
            Server::PowerDns { .. } | Server::Cloudflare { .. } => {
                let description =
                    "must not be in update_mask, because the connection has no TSIG key";
                if patch.key_name.is_some() {
                    return Err(Error::invalid("key_name", description));
                }
                if patch.algorithm.is_some() {
                    return Err(Error::invalid("algorithm", description));
                }
            }
        }
        if let Some(secret) = patch.secret {
            self.secret = secret;
        }
        self.require_secret()?;
        Ok(self)
    }

    /// Refuses a TSIG key that is not in Base64.
    pub(super) fn require_secret(&self) -> Result<()> {
        let is_tsig = self.server.provider() == Provider::Rfc2136;
        if is_tsig && data_encoding::BASE64.decode(self.secret.as_bytes()).is_err() {
            let description =
                "must be the TSIG key in Base64, as in the configuration of the DNS server";
            return Err(Error::invalid("secret", description));
        }
        Ok(())
    }
}

/// Description of the problem of a DNS name; `None` for a valid one. `name` is in lower case and has no dot
/// at its end.
pub fn name_violation(name: &str) -> Option<&'static str> {
    let is_valid_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_'))
    };
    if name.len() > 253 {
        return Some("must have at most 253 characters");
    }
    (!name.split('.').all(is_valid_label))
        .then_some("must be a DNS name: labels of 1 to 63 letters, digits, hyphens and underscores")
}

/// Name of a secret in the vault. It cannot be decrypted for another connection or server.
fn secret_name(id: DnsConnectionId, server_address: &str) -> String {
    format!("secret of the DNS connection {id} for {server_address}")
}

impl DnsConnection {
    /// Returns the settings with their secret decrypted.
    pub fn settings(&self, vault: &Vault) -> Result<Settings> {
        Ok(Settings {
            name: self.name.clone(),
            zone: self.zone.clone(),
            server: self.server()?,
            secret: self.secret(vault)?,
        })
    }

    pub(super) fn server(&self) -> Result<Server> {
        Ok(match self.provider {
            Provider::Rfc2136 => {
                let address = self.server_address.rsplit_once(':');
                let address = address.and_then(|it| Some((it.0.to_owned(), it.1.parse().ok()?)));
                let (host, port) = address
                    .ok_or_else(|| anyhow::anyhow!("{} has no port", self.server_address))?;
                let algorithm =
                    self.key_algorithm.ok_or_else(|| anyhow::anyhow!("no algorithm"))?;
                Server::Rfc2136 { host, port, key_name: self.key_name.clone(), algorithm }
            }
            Provider::PowerDns => Server::PowerDns {
                api_url: self.server_address.clone(),
                server_id: self.remote_id.clone(),
            },
            Provider::Cloudflare => Server::Cloudflare { zone_id: self.remote_id.clone() },
        })
    }

    fn secret(&self, vault: &Vault) -> Result<String> {
        vault.unseal(self.org_id, &secret_name(self.id, &self.server_address), &self.sealed)
    }

    /// Encrypts and stores tested settings. A secret that is the stored one is not encrypted again.
    pub(super) fn store_settings(&mut self, tested: Settings, vault: &Vault, now: OffsetDateTime) {
        self.name = tested.name;
        if let Server::Rfc2136 { key_name, algorithm, .. } = tested.server {
            self.key_name = key_name;
            self.key_algorithm = Some(algorithm);
        }
        if !self.sealed.is_empty() && self.secret(vault).is_ok_and(|it| it == tested.secret) {
            return;
        }
        let name = secret_name(self.id, &self.server_address);
        self.sealed = vault.seal(self.org_id, &name, &tested.secret);
        self.secret_updated_at = now;
    }
}
