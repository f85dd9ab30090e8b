//! Addresses to which connections may go: public ones, and those that the operator allows.

use std::net::{IpAddr, SocketAddr};

use chassis::public_address::{Exceptions, not_public};
use host::resolver::Resolver;
use project_rules::{
    connection::TestFailure,
    repository::{Endpoint, Scheme},
};

/// Resolves and checks the hosts of connections.
pub(crate) struct AddressChecker {
    resolver: Resolver,
    exceptions: Exceptions,
}

impl AddressChecker {
    pub(crate) fn new(resolver: Resolver, exceptions: Exceptions) -> Self {
        Self { resolver, exceptions }
    }

    /// Resolves the host of a server; fails unless connections to every one of its addresses are allowed.
    /// Only exceptions are connected to by plain HTTP.
    pub(crate) async fn addresses(&self, endpoint: &Endpoint) -> Result<Vec<IpAddr>, TestFailure> {
        let unknown = || TestFailure::UnknownHost(endpoint.host.clone());
        let host = endpoint.resolvable_host().ok_or_else(unknown)?;
        let addresses = self.resolver.addresses(&host).await;
        for ip in &addresses {
            if self.exceptions.contain((*ip, endpoint.port).into()) {
                continue;
            }
            let is_http = endpoint.scheme == Scheme::Http;
            let why = not_public(*ip).or(is_http.then_some("http without encryption"));
            if let Some(why) = why {
                return Err(TestFailure::NotPublic { address: ip.to_string(), why });
            }
        }
        if addresses.is_empty() { Err(unknown()) } else { Ok(addresses) }
    }

    /// Returns the builder of an HTTP client for a server. The client connects only to the addresses that
    /// were checked, and follows no redirects.
    pub(crate) async fn http_client(
        &self,
        endpoint: &Endpoint,
    ) -> Result<reqwest::ClientBuilder, TestFailure> {
        let addresses = self.addresses(endpoint).await?.into_iter();
        let addresses: Vec<_> = addresses.map(|ip| SocketAddr::new(ip, endpoint.port)).collect();
        // Several TLS providers are compiled in. Fails if one is set already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Ok(reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("Tenantry/", env!("CARGO_PKG_VERSION")))
            .resolve_to_addrs(&endpoint.host, &addresses))
    }
}
