//! Resolution of host names of tenants, for checks of their addresses.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
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
}
