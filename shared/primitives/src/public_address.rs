//! Addresses to which the suite connects for its tenants: public ones, and those that the operator allows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Networks and ports to which connections are allowed although they are not public.
#[derive(Clone, Debug, Default)]
pub struct Exceptions(Vec<(IpNet, u16)>);

impl Exceptions {
    /// Parses exceptions such as `127.0.0.1:8080`, `10.0.0.0/8:443` and `[fd00::/8]:443`, the values of a
    /// setting.
    pub fn parse(setting: &str, texts: &[String]) -> anyhow::Result<Self> {
        let read = |text: &String| {
            let (net, port) = text.rsplit_once(':')?;
            let net = net.trim_matches(['[', ']']);
            let net = net.parse().or_else(|_| net.parse::<IpAddr>().map(IpNet::from)).ok()?;
            Some((net, port.parse().ok()?))
        };
        let all = texts.iter().map(|text| {
            read(text).ok_or_else(|| {
                anyhow::anyhow!(
                    "{setting} must be networks with ports, for example 10.0.0.0/8:443; {text:?} is not one"
                )
            })
        });
        Ok(Self(all.collect::<anyhow::Result<_>>()?))
    }

    /// True for an address in one of the networks, with its port.
    pub fn contain(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.0.iter().any(|(net, port)| net.contains(&ip) && *port == address.port())
    }
}

/// The network of IPv4 addresses whose first `bits` bits are those of `a.b.c.0`.
fn v4(a: u8, b: u8, c: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), bits)
}

/// The network of IPv6 addresses whose first `bits` bits are those of `a:b::`.
fn v6(a: u16, b: u16, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), bits)
}

/// Kind of an address that is not public; `None` for a public unicast address.
pub fn not_public(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => not_public_v4(ip),
        IpAddr::V6(ip) => not_public_v6(ip),
    }
}

/// IANA IPv4 Special-Purpose Address Registry.
fn not_public_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let nets = [
        (v4(0, 0, 0, 8), "\"this network\" address"),
        (v4(10, 0, 0, 8), "private address"),
        (v4(100, 64, 0, 10), "shared address of a provider (RFC 6598)"),
        (v4(127, 0, 0, 8), "loopback address"),
        (v4(169, 254, 0, 16), "link-local address"),
        (v4(172, 16, 0, 12), "private address"),
        (v4(192, 0, 0, 24), "address for protocol assignments"),
        (v4(192, 0, 2, 24), "documentation address"),
        (v4(192, 88, 99, 24), "6to4 relay address"),
        (v4(192, 168, 0, 16), "private address"),
        (v4(198, 18, 0, 15), "benchmarking address"),
        (v4(198, 51, 100, 24), "documentation address"),
        (v4(203, 0, 113, 24), "documentation address"),
        (v4(224, 0, 0, 4), "multicast address"),
        (v4(240, 0, 0, 4), "reserved address"),
    ];
    nets.iter().find(|(net, _)| net.contains(&ip)).map(|it| it.1)
}

/// IANA IPv6 Special-Purpose Address Registry, and everything outside of `2000::/3`.
fn not_public_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let octets = ip.octets();
    let embedded = Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]);
    if ip.is_loopback() {
        return Some("loopback address");
    }
    // IPv4-mapped, IPv4-compatible and NAT64 addresses lead to the embedded IPv4 address.
    let embeds_ipv4 = ip.to_ipv4_mapped().is_some()
        || octets[..12] == [0; 12]
        || octets[..12] == [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
    if embeds_ipv4 {
        return not_public_v4(embedded).or(Some("IPv4 address embedded in IPv6"));
    }
    let nets = [
        (v6(0x2001, 0, 23), "address for protocol assignments"),
        (v6(0x2001, 0xdb8, 32), "documentation address"),
        (v6(0x2002, 0, 16), "6to4 address"),
        (v6(0x3fff, 0, 20), "documentation address"),
        (v6(0xfc00, 0, 7), "private address"),
        (v6(0xfe80, 0, 10), "link-local address"),
        (v6(0xfec0, 0, 10), "site-local address"),
        (v6(0xff00, 0, 8), "multicast address"),
    ];
    let special = nets.iter().find(|(net, _)| net.contains(&ip)).map(|it| it.1);
    let is_global_unicast = v6(0x2000, 0, 3).contains(&ip);
    special.or_else(|| (!is_global_unicast).then_some("reserved address"))
}
