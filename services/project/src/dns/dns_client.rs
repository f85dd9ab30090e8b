//! Client of the DNS servers of connections: tests, publication and removal of records. The address of a
//! server is checked before each operation, and the client connects to the checked address only.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use chassis::{
    OrgId,
    foreign_text::clean_block,
    key::{DerivedKeys, Key},
    public_address::{Exceptions, not_public},
};
use host::resolver::Resolver;
use project_rules::connection::{
    TestFailure,
    dns::{
        Server, Settings,
        record::{Change, DnsFailure, Owner, Record, RecordType, Snapshot},
    },
};
use tokio::sync::Semaphore;
use url::{Host, Url};

use super::{
    cloudflare::Cloudflare,
    http::Api,
    powerdns::PowerDns,
    rfc2136::{Rfc2136, wire_name},
    tsig::TsigKey,
};

/// Time limit of an operation, without the time in which it waits for others.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum number of operations at the same time.
const CONCURRENT_MAX: usize = 8;

/// Maximum length of the text of a server that a message contains, in bytes.
const ERROR_BYTES_MAX: usize = 500;

/// Time to live of the record of a test, in seconds.
const TEST_TTL: u32 = 60;

/// Converts an error to a failure of the server.
pub(super) fn failure(error: impl Into<Box<dyn Error + Send + Sync>>) -> DnsFailure {
    DnsFailure::Server(error.into().to_string())
}

/// Client of DNS servers.
pub(crate) struct DnsClient {
    pub(crate) resolver: Resolver,
    pub(crate) exceptions: Exceptions,
    /// URL of the API of Cloudflare, without a slash at its end.
    pub(crate) cloudflare_url: String,
    /// Keys of the id of the installation in owners of records.
    installation_keys: DerivedKeys,
    slots: Semaphore,
}

/// Access to the zone of a connection.
enum DnsProvider {
    Rfc2136(Box<Rfc2136>),
    PowerDns(PowerDns),
    Cloudflare(Cloudflare),
}

impl DnsProvider {
    async fn read(&self, name: &str) -> Result<Snapshot, DnsFailure> {
        match self {
            Self::Rfc2136(it) => it.read(name).await,
            Self::PowerDns(it) => it.read(name).await,
            Self::Cloudflare(it) => it.read(name).await,
        }
    }

    /// Applies a change, and reads it back.
    async fn apply(&self, change: &Change) -> Result<(), DnsFailure> {
        match self {
            Self::Rfc2136(it) => it.apply(change).await?,
            Self::PowerDns(it) => it.apply(change).await?,
            Self::Cloudflare(it) => it.apply(change).await?,
        }
        if change.is_applied(&self.read(&change.name).await?) {
            return Ok(());
        }
        let name = &change.name;
        Err(failure(format!(
            "the server accepted the change, but the records of {name} are others"
        )))
    }

    async fn publish(&self, record: &Record, owner: &Owner) -> Result<(), DnsFailure> {
        match self.read(&record.name).await?.publication(record, owner)? {
            Some(change) => self.apply(&change).await,
            None => Ok(()),
        }
    }

    async fn remove(
        &self,
        name: &str,
        record_type: RecordType,
        owner: &Owner,
    ) -> Result<(), DnsFailure> {
        match self.read(name).await?.removal(name, record_type, owner) {
            Some(change) => self.apply(&change).await,
            None => Ok(()),
        }
    }
}

impl DnsClient {
    pub(crate) fn new(
        resolver: Resolver,
        exceptions: Exceptions,
        cloudflare_url: String,
        key: &Key,
    ) -> Self {
        let installation_keys = key.derive("owner of DNS records");
        let slots = Semaphore::new(CONCURRENT_MAX);
        Self { resolver, exceptions, cloudflare_url, installation_keys, slots }
    }

    /// Owner of the records of an environment.
    pub(crate) fn owner(&self, org_id: OrgId, environment: String) -> Owner {
        // Public, and the same for all processes of an installation, also after a rotation of the key.
        let installation = data_encoding::HEXLOWER.encode(&self.installation_keys.original()[..8]);
        Owner { installation, org_id, environment }
    }

    /// Publishes a record, or replaces that of the same owner. Does nothing if it is published already.
    pub(crate) async fn publish(
        &self,
        settings: &Settings,
        record: &Record,
        owner: &Owner,
    ) -> Result<(), DnsFailure> {
        record.require_valid(&settings.zone)?;
        self.run(settings, async |provider| provider.publish(record, owner).await).await
    }

    /// Removes the record of an owner. Does nothing if there is none, or one of another owner.
    pub(crate) async fn remove(
        &self,
        settings: &Settings,
        record: &Record,
        owner: &Owner,
    ) -> Result<(), DnsFailure> {
        let remove = async |provider: &DnsProvider| {
            provider.remove(&record.name, record.record_type, owner).await
        };
        self.run(settings, remove).await
    }

    /// Tests settings: publishes a record, reads it back, and removes it.
    pub(crate) async fn test(&self, settings: &Settings, org_id: OrgId) -> Result<(), TestFailure> {
        let owner = self.owner(org_id, "test".to_owned());
        let random = chassis::id::new().simple().to_string();
        let record = Record {
            name: format!("_tenantry-test-{}.{}", &random[16..], settings.zone),
            record_type: RecordType::Txt,
            value: random,
            ttl: TEST_TTL,
        };
        let test = async |provider: &DnsProvider| {
            let published = provider.publish(&record, &owner).await;
            // Also after a failure: the server may have stored the record.
            let removed = provider.remove(&record.name, record.record_type, &owner).await;
            published.and(removed)
        };
        record.require_valid(&settings.zone).map_err(DnsFailure::into_test_failure)?;
        self.run(settings, test).await.map_err(DnsFailure::into_test_failure)
    }

    /// Runs an operation with its time limit. The text of an error has no secret.
    async fn run(
        &self,
        settings: &Settings,
        operation: impl AsyncFnOnce(&DnsProvider) -> Result<(), DnsFailure>,
    ) -> Result<(), DnsFailure> {
        let _slot = self.slots.acquire().await.map_err(failure)?;
        let run = async {
            let provider = self.provider(settings).await?;
            operation(&provider).await
        };
        let result = tokio::time::timeout(TIMEOUT, Box::pin(run)).await.unwrap_or_else(|_| {
            Err(failure(format!("no answer within {} seconds", TIMEOUT.as_secs())))
        });
        result.map_err(|error| match error {
            DnsFailure::Server(text) => {
                let text = text.replace(&settings.secret, "[secret]");
                DnsFailure::Server(clean_block(text.trim(), ERROR_BYTES_MAX))
            }
            other => other,
        })
    }

    async fn provider(&self, settings: &Settings) -> Result<DnsProvider, DnsFailure> {
        let (zone, secret) = (settings.zone.clone(), settings.secret.as_str());
        Ok(match &settings.server {
            Server::Rfc2136 { host, port, key_name, algorithm } => {
                let host = Host::parse(host).map_err(failure)?;
                let address = (self.address(&host, *port).await?, *port).into();
                let secret = data_encoding::BASE64.decode(secret.as_bytes()).map_err(failure)?;
                let key = TsigKey::new(wire_name(key_name)?, *algorithm, &secret);
                DnsProvider::Rfc2136(Box::new(Rfc2136 { address, zone: wire_name(&zone)?, key }))
            }
            Server::PowerDns { api_url, server_id } => {
                let url = Url::parse(api_url).map_err(failure)?;
                let host = url.host().ok_or_else(|| failure("the URL has no host"))?;
                let port = url.port_or_known_default().unwrap_or(443);
                let address = self.address(&host, port).await?;
                if url.scheme() == "http" && !self.is_exception((address, port).into()) {
                    let why = "http:// is for addresses of --connection-exceptions only";
                    let address = address.to_string();
                    return Err(DnsFailure::Target(TestFailure::NotPublic { address, why }));
                }
                let name = host.to_string();
                let credential = ("x-api-key", secret);
                let api = Api::new(api_url.clone(), credential, Some((&name, address)));
                let (api, server_id) = (api.map_err(failure)?, server_id.clone());
                DnsProvider::PowerDns(PowerDns { api, server_id, zone })
            }
            Server::Cloudflare { zone_id } => {
                // The URL is a setting of the operator, so its address is not checked.
                let token = format!("Bearer {secret}");
                let api = Api::new(self.cloudflare_url.clone(), ("authorization", &token), None);
                let (api, zone_id) = (api.map_err(failure)?, zone_id.clone());
                DnsProvider::Cloudflare(Cloudflare { api, zone, zone_id })
            }
        })
    }

    fn is_exception(&self, address: SocketAddr) -> bool {
        self.exceptions.contain(address)
    }

    /// Resolves a host; fails unless connections to every one of its addresses are allowed.
    async fn address<S: AsRef<str> + std::fmt::Display>(
        &self,
        host: &Host<S>,
        port: u16,
    ) -> Result<IpAddr, DnsFailure> {
        let addresses = self.resolver.addresses(host).await;
        for ip in &addresses {
            let is_exception = self.is_exception((*ip, port).into());
            if let Some(why) = not_public(*ip).filter(|_| !is_exception) {
                let address = ip.to_string();
                return Err(DnsFailure::Target(TestFailure::NotPublic { address, why }));
            }
        }
        let unknown = || DnsFailure::Target(TestFailure::UnknownHost(host.to_string()));
        addresses.first().copied().ok_or_else(unknown)
    }
}
