//! Where a call came from.

use std::net::{IpAddr, SocketAddr};

use api::event as pb;
use http::{HeaderMap, Request};
use tonic::body::Body;

use super::{Connection, Peer};
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

/// The network address of the caller: that of the connection or, if it is a trusted proxy, the address that
/// this proxy saw. Each proxy appends what it saw, so that is the last value of the last line (C-18); values
/// before it are written by the client, and a last value that is no address means that of the connection.
pub(crate) fn address(request: &Request<Body>, proxies: &[IpAddr]) -> String {
    let connected = connection(request).map(|it| it.ip().to_canonical());
    let by_proxy = connected.is_some_and(|it| proxies.contains(&it));
    let last_line = request.headers().get_all("x-forwarded-for").iter().next_back();
    let forwarded = last_line.filter(|_| by_proxy).and_then(|it| it.to_str().ok());
    let forwarded = forwarded.and_then(|it| it.rsplit(',').next()).and_then(parse_address);
    forwarded.or(connected).map(|it| it.to_string()).unwrap_or_default()
}

/// An IP address, with or without a port, an IPv6 one with or without brackets.
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

    /// AU-18: what a caller says of its address counts only if a trusted proxy says it, and then what that
    /// proxy itself has seen.
    #[test]
    fn an_address_is_that_of_the_connection_or_of_a_trusted_proxy() {
        let seen = |from: &str, lines: &[&str]| {
            let mut request = Request::new(Body::empty());
            let address = SocketAddr::new(from.parse().unwrap(), 1);
            request.extensions_mut().insert(Connection { address, service: None });
            for line in lines {
                request.headers_mut().append("x-forwarded-for", line.parse().unwrap());
            }
            address_of(&request)
        };
        assert_eq!(seen("192.0.2.9", &["1.2.3.4"]), "192.0.2.9");
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
            assert_eq!(seen("10.0.0.1", lines), expected, "{lines:?}");
        }
        assert_eq!(seen("::ffff:10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
    }

    fn address_of(request: &Request<Body>) -> String {
        address(request, &["10.0.0.1".parse().unwrap()])
    }
}
