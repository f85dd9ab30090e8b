//! Where a call came from.

use std::net::{IpAddr, SocketAddr};

use api::event as pb;
use http::{HeaderMap, Request};
use tonic::{
    body::Body,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};

use super::Peer;
use crate::{id, rule::Rule};

/// Where a call came from. A service of the suite tells where the call it serves came from.
pub(super) fn of(
    rule: &Rule,
    peer: &Peer,
    request: &Request<Body>,
    proxies: &[IpAddr],
) -> pb::Origin {
    let headers = request.headers();
    let text = |name: &str| text(headers, name);
    let connected = address(request, proxies);
    let (address, user_agent) = match peer {
        Peer::Client => (connected, text("user-agent")),
        Peer::Service(_) => (
            text("tenantry-origin-address").unwrap_or(connected),
            text("tenantry-origin-agent").or_else(|| text("user-agent")),
        ),
    };
    let sane = |it: &String| {
        (1..=64).contains(&it.len()) && it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let request_id = text("x-request-id").filter(sane).unwrap_or_else(|| id::new().to_string());
    let mut user_agent = user_agent.unwrap_or_default();
    user_agent.truncate(200);
    pb::Origin {
        method: rule.method.clone(),
        request_id,
        address,
        user_agent,
        traceparent: String::new(),
    }
}

pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|it| it.to_str().ok()).map(str::to_owned)
}

/// The network address of whoever asks: what the connection says, or the nearest trusted proxy.
pub(crate) fn address(request: &Request<Body>, proxies: &[IpAddr]) -> String {
    let connected = connection(request).map(|it| it.ip());
    // Only what the nearest trusted proxy saw itself (C-18): the last entry.
    let told = text(request.headers(), "x-forwarded-for")
        .filter(|_| connected.is_some_and(|it| proxies.contains(&it)));
    let told = told.as_deref().and_then(|it| it.rsplit(',').next()?.trim().parse::<IpAddr>().ok());
    told.or(connected).map(|it| it.to_string()).unwrap_or_default()
}

fn connection(request: &Request<Body>) -> Option<SocketAddr> {
    let extensions = request.extensions();
    let tcp = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    tcp.or_else(|| extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?.get_ref().remote_addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AU-18: what a caller says of its address counts only if a trusted proxy says it, and then what that
    /// proxy itself has seen.
    #[test]
    fn an_address_is_that_of_the_connection_or_of_a_trusted_proxy() {
        let request = |from: &str, told: &str| {
            let mut request = Request::new(Body::empty());
            let remote_addr = Some(SocketAddr::new(from.parse().unwrap(), 1));
            request.extensions_mut().insert(TcpConnectInfo { local_addr: None, remote_addr });
            request.headers_mut().insert("x-forwarded-for", told.parse().unwrap());
            request
        };
        let proxies = ["10.0.0.1".parse().unwrap()];
        assert_eq!(address(&request("192.0.2.9", "1.2.3.4"), &proxies), "192.0.2.9");
        assert_eq!(address(&request("10.0.0.1", "1.2.3.4"), &proxies), "1.2.3.4");
        assert_eq!(address(&request("10.0.0.1", "6.6.6.6, 1.2.3.4"), &proxies), "1.2.3.4");
        assert_eq!(address(&request("10.0.0.1", "no address"), &proxies), "10.0.0.1");
    }
}
