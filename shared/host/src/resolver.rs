//! Resolution of host names of tenants, for checks of their addresses.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, RecordType},
};
use url::Host;

/// Time limit of a DNS query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Resolver without a cache: a caller checks the addresses and connects to a checked one, each time (DNS
/// rebinding).
pub struct Resolver(TokioResolver);

impl Resolver {
    /// A resolver that uses the given name server, or else those of the system.
    pub fn new(name_server: Option<SocketAddr>) -> anyhow::Result<Self> {
        let mut resolver = match name_server {
            Some(address) => {
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                for connection in &mut server.connections {
                    connection.port = address.port();
                }
                let config = ResolverConfig::from_parts(None, vec![], vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
            None => TokioResolver::builder_tokio()
                .context("the name servers of the system cannot be read; set --webhook-dns")?,
        };
        resolver.options_mut().cache_size = 0;
        resolver.options_mut().timeout = QUERY_TIMEOUT;
        Ok(Self(resolver.build()?))
    }

    /// The addresses of a host; none if its name cannot be resolved.
    pub async fn addresses<S: AsRef<str>>(&self, host: &Host<S>) -> Vec<IpAddr> {
        match host {
            Host::Ipv4(ip) => vec![(*ip).into()],
            Host::Ipv6(ip) => vec![(*ip).into()],
            Host::Domain(name) => {
                let found = self.0.lookup_ip(name.as_ref()).await;
                found.map(|it| it.iter().collect()).unwrap_or_default()
            }
        }
    }

    /// The texts of the TXT records of a name; none if it has no such record. The error is for people.
    pub async fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        let records = self.records(name, RecordType::TXT).await?;
        let text = |it: RData| match it {
            RData::TXT(texts) => {
                Some(String::from_utf8_lossy(&texts.txt_data.concat()).into_owned())
            }
            _ => None,
        };
        Ok(records.into_iter().filter_map(text).collect())
    }

    /// The target of the CNAME record of a name, in lower case without a dot at its end; `None` if it has no
    /// such record. The error is for people.
    pub async fn cname(&self, name: &str) -> Result<Option<String>, String> {
        let records = self.records(name, RecordType::CNAME).await?;
        let target = |it: RData| match it {
            RData::CNAME(target) => {
                Some(target.0.to_ascii().trim_end_matches('.').to_ascii_lowercase())
            }
            _ => None,
        };
        Ok(records.into_iter().find_map(target))
    }

    /// The addresses of a name, also by CNAME records; none if it has no address. Unlike [`Self::addresses`],
    /// a failed query is an error, for people.
    pub async fn host_addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let address = |it: RData| match it {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        };
        let mut records = self.records(name, RecordType::A).await?;
        records.extend(self.records(name, RecordType::AAAA).await?);
        Ok(records.into_iter().filter_map(address).collect())
    }

    /// The records in the answer to a query; none if the name does not exist.
    async fn records(&self, name: &str, record_type: RecordType) -> Result<Vec<RData>, String> {
        let failure = |error: String| format!("the {record_type} query for {name} failed: {error}");
        let mut query = Name::from_ascii(name).map_err(|it| failure(it.to_string()))?;
        // Without it, the search domains of the system would be tried.
        query.set_fqdn(true);
        match self.0.lookup(query, record_type).await {
            Ok(lookup) => Ok(lookup.answers().iter().map(|it| it.data.clone()).collect()),
            Err(error) if NetError::is_no_records_found(&error) => Ok(vec![]),
            Err(error) => Err(failure(error.to_string())),
        }
    }
}
