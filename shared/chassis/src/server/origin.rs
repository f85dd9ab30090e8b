//! Origin of a call: network address, user agent and request id.

use std::net::{IpAddr, SocketAddr};

use api::event as pb;
use http::{HeaderMap, Request};
use ipnet::IpNet;
use tonic::body::Body;

use super::{Connection, Peer};
use crate::{id, rule::Rule};

/// Returns the origin of a call. A service of the suite forwards the origin of the call on whose behalf it
/// calls.
pub(super) fn of(
    rule: &Rule,
    peer: &Peer,
    request: &Request<Body>,
    proxies: &[IpNet],
) -> pb::Origin {
    let headers = request.headers();
    let header = |name: &str| header(headers, name);
    let connected = address(request, proxies);
    let (address, user_agent) = match peer {
        Peer::Client => (connected, header("user-agent")),
        Peer::Service(_) => (
            header("tenantry-origin-address").unwrap_or(connected),
            header("tenantry-origin-agent").or_else(|| header("user-agent")),
        ),
    };
    let is_valid_id = |it: &String| {
        (1..=64).contains(&it.len()) && it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let request_id = header("x-request-id").filter(is_valid_id);
    let request_id = request_id.unwrap_or_else(|| id::new().to_string());
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

/// Returns a header as text; `None` if it is missing or not ASCII.
pub(super) fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|it| it.to_str().ok()).map(str::to_owned)
}

/// Returns the network address of the caller: the peer of the connection or, if that is a trusted proxy, the
/// address that the proxy added to `x-forwarded-for`. A proxy appends the address of its own peer, so only
/// the last value of the last line is used (C-18); the client can write the values before it. If the last
/// value is not an address, the proxy's address is returned.
pub fn address(request: &Request<Body>, proxies: &[IpNet]) -> String {
    let connected = connection(request).map(|it| it.ip().to_canonical());
    let is_proxy = connected.is_some_and(|it| proxies.iter().any(|network| network.contains(&it)));
    let last_line = request.headers().get_all("x-forwarded-for").iter().next_back();
    let forwarded = last_line.filter(|_| is_proxy).and_then(|it| it.to_str().ok());
    let forwarded = forwarded.and_then(|it| it.rsplit(',').next()).and_then(parse_address);
    forwarded.or(connected).map(|it| it.to_string()).unwrap_or_default()
}

/// Parses an IP address with or without a port, and IPv6 with or without brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let unbracketed = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse().map(|it: SocketAddr| it.ip());
    unbracketed.parse().or_else(|_| with_port()).map(|it: IpAddr| it.to_canonical()).ok()
}

fn connection(request: &Request<Body>) -> Option<SocketAddr> {
    request.extensions().get::<Connection>().map(|it| it.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AU-18: `x-forwarded-for` is used only on connections of a trusted proxy, and then only its last value.
    #[test]
    fn the_address_is_that_of_the_connection_or_the_one_a_trusted_proxy_added() {
        let caller = |peer: &str, lines: &[&str]| {
            let mut request = Request::new(Body::empty());
            let address = SocketAddr::new(peer.parse().unwrap(), 1);
            request.extensions_mut().insert(Connection { address, service: None });
            for line in lines {
                request.headers_mut().append("x-forwarded-for", line.parse().unwrap());
            }
            address_of(&request)
        };
        assert_eq!(caller("192.0.2.9", &["1.2.3.4"]), "192.0.2.9");
        for (lines, expected) in [
            (&[] as &[&str], "10.0.0.1"),
            (&["1.2.3.4"], "1.2.3.4"),
            (&["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            (&["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
            (&["6.6.6.6", "6.6.6.6,1.2.3.4"], "1.2.3.4"),
            (&["6.6.6.6", "1.2.3.4:443"], "1.2.3.4"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["[2001:db8::7]:443"], "2001:db8::7"),
            (&["::ffff:1.2.3.4"], "1.2.3.4"),
            (&["6.6.6.6, unknown"], "10.0.0.1"),
            (&["6.6.6.6", ""], "10.0.0.1"),
            (&["6.6.6.6", "1.2.3.4,"], "10.0.0.1"),
            (&["6.6.6.6", "1.2.3.4:port"], "10.0.0.1"),
            (&["6.6.6.6", "\u{e9}"], "10.0.0.1"),
        ] {
            assert_eq!(caller("10.0.0.1", lines), expected, "{lines:?}");
        }
        assert_eq!(caller("::ffff:10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(caller("172.18.0.7", &["1.2.3.4"]), "1.2.3.4", "in a network of proxies");
        assert_eq!(caller("172.19.0.7", &["1.2.3.4"]), "172.19.0.7");
    }

    fn address_of(request: &Request<Body>) -> String {
        let proxies = ["10.0.0.1/32", "172.18.0.0/16"].map(|it| it.parse().unwrap());
        address(request, &proxies)
    }
}
