//! Parsers of the values of settings. An error says what is wrong and shows a correct value.

use std::net::IpAddr;

use ipnet::IpNet;

/// Parses a network (CIDR), or an address as the network of only this address.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| {
        format!("{text} is not an address or a network; use for example 192.0.2.1 or 10.0.0.0/8")
    })
}

/// Checks a base URL: scheme and host, and possibly a path.
pub(crate) fn base_url(text: &str) -> Result<String, String> {
    let rest = ["https://", "http://"].iter().find_map(|it| text.strip_prefix(it));
    let has_host = rest.is_some_and(|it| !it.is_empty() && !it.starts_with(['/', ':', '?', '#']));
    let is_text = text.chars().all(|it| !it.is_whitespace() && !it.is_control());
    if has_host && is_text && !text.contains(['?', '#']) {
        return Ok(text.to_owned());
    }
    Err(format!("{text} is not a base URL; use for example https://tenantry.example.com"))
}

/// Checks the origin of a web page (RFC 6454): scheme, host and port, without a path.
pub(crate) fn origin(text: &str) -> Result<String, String> {
    let host = ["https://", "http://"].iter().find_map(|it| text.strip_prefix(it));
    let is_host = |it: &str| {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        !it.is_empty() && it.chars().all(is_allowed)
    };
    if host.is_some_and(is_host) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("{text} is not an origin; use for example https://app.example.com, without a path"))
}
