//! Where a webhook may go: to public addresses, by https (N-12). Each address that a name has is looked at,
//! and the one that was looked at is the one that is called.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use api::error::Reason;
use chassis::{Code, Refusal};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

/// Why nothing is sent to an address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Forbidden {
    #[error("webhooks do not go there: {0}")]
    Address(String),
    #[error("webhooks do not go to {address}: {why}")]
    NotPublic { address: String, why: &'static str },
    #[error("the name {0} has no address")]
    Unknown(String),
}

impl Refusal for Forbidden {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }

    fn reason(&self) -> Reason {
        Reason::WebhookTargetForbidden
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Address(why) => vec![("why", why.clone())],
            Self::NotPublic { address, why } => {
                vec![("address", address.clone()), ("why", (*why).to_owned())]
            }
            Self::Unknown(name) => vec![("address", name.clone())],
        }
    }
}

/// Networks and ports to which webhooks may go although they are not public, in plain http, too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exceptions(Vec<(IpNet, u16)>);

impl Exceptions {
    /// Reads `127.0.0.1:8080`, `10.0.0.0/8:443`, `[fd00::/8]:443`.
    pub(crate) fn parse(texts: &[String]) -> anyhow::Result<Self> {
        let read = |text: &String| {
            let (net, port) = text.rsplit_once(':')?;
            let net = net.trim_matches(['[', ']']);
            let net = net.parse().or_else(|_| net.parse::<IpAddr>().map(IpNet::from)).ok()?;
            Some((net, port.parse().ok()?))
        };
        let all = texts.iter().map(|text| {
            read(text).ok_or_else(|| {
                anyhow::anyhow!(
                    "--webhook-exceptions: {text} is no network and port, like 10.0.0.0/8:443"
                )
            })
        });
        Ok(Self(all.collect::<anyhow::Result<_>>()?))
    }

    fn contain(&self, at: SocketAddr) -> bool {
        self.0.iter().any(|(net, port)| net.contains(&at.ip().to_canonical()) && *port == at.port())
    }
}

/// An address that is well-formed; where it leads is not known yet.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: Url,
    pub(crate) port: u16,
}

impl Target {
    /// Reads an address as browsers do: `https://0x7f.1/` is `https://127.0.0.1/`.
    pub(crate) fn parse(text: &str) -> Result<Self, Forbidden> {
        let wrong = |why: &str| Err(Forbidden::Address(why.to_owned()));
        let Ok(url) = Url::parse(text) else { return wrong("it is no address") };
        if !["https", "http"].contains(&url.scheme()) {
            return wrong("it must begin with https://");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return wrong("it must not hold a user or a password");
        }
        if text.contains('\\') {
            return wrong("it must not hold a backslash");
        }
        match (url.host(), url.port_or_known_default()) {
            (Some(_), Some(port)) => Ok(Self { url, port }),
            _ => wrong("it names no host"),
        }
    }

    /// The name to be resolved, or the address that it is.
    pub(crate) fn host(&self) -> Result<&str, IpAddr> {
        match self.url.host() {
            Some(Host::Ipv4(it)) => Err(it.into()),
            Some(Host::Ipv6(it)) => Err(it.into()),
            _ => Ok(self.url.host_str().unwrap_or_default()),
        }
    }

    /// Whether it may be called at these addresses, every one of them.
    pub(crate) fn check(
        &self,
        addresses: &[IpAddr],
        exceptions: &Exceptions,
    ) -> Result<Vec<SocketAddr>, Forbidden> {
        if addresses.is_empty() {
            return Err(Forbidden::Unknown(self.url.host_str().unwrap_or_default().to_owned()));
        }
        let mut allowed = vec![];
        for ip in addresses {
            let at = SocketAddr::new(*ip, self.port);
            if !exceptions.contain(at) {
                if let Some(why) = not_public(*ip) {
                    return Err(Forbidden::NotPublic { address: ip.to_string(), why });
                }
                if self.url.scheme() != "https" {
                    return Err(Forbidden::Address("it must begin with https://".to_owned()));
                }
                if self.port != 443 {
                    return Err(Forbidden::Address("only port 443 is open to webhooks".to_owned()));
                }
            }
            allowed.push(at);
        }
        Ok(allowed)
    }
}

fn v4(a: u8, b: u8, c: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), bits)
}

fn v6(a: u16, b: u16, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), bits)
}

/// Why an address is none of the public internet; `None` if it is one.
fn not_public(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => not_public_v4(ip),
        IpAddr::V6(ip) => not_public_v6(ip),
    }
}

/// The special-purpose registry of IANA.
fn not_public_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let nets = [
        (v4(0, 0, 0, 8), "it is \"this network\""),
        (v4(10, 0, 0, 8), "it is private"),
        (v4(100, 64, 0, 10), "it is a provider's own"),
        (v4(127, 0, 0, 8), "it is this machine"),
        (v4(169, 254, 0, 16), "it is link-local"),
        (v4(172, 16, 0, 12), "it is private"),
        (v4(192, 0, 0, 24), "it is for protocols"),
        (v4(192, 0, 2, 24), "it is for documentation"),
        (v4(192, 88, 99, 24), "it is a 6to4 relay"),
        (v4(192, 168, 0, 16), "it is private"),
        (v4(198, 18, 0, 15), "it is for benchmarks"),
        (v4(198, 51, 100, 24), "it is for documentation"),
        (v4(203, 0, 113, 24), "it is for documentation"),
        (v4(224, 0, 0, 4), "it is multicast"),
        (v4(240, 0, 0, 4), "it is reserved"),
    ];
    nets.iter().find(|(net, _)| net.contains(&ip)).map(|it| it.1)
}

fn not_public_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let octets = ip.octets();
    let last = Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]);
    if ip.is_loopback() {
        return Some("it is this machine");
    }
    // An IPv4 address inside is what is called in the end.
    let inside = ip.to_ipv4_mapped().is_some()
        || octets[..12] == [0; 12]
        || octets[..12] == [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
    if inside {
        return not_public_v4(last).or(Some("it hides an IPv4 address"));
    }
    let nets = [
        (v6(0x2001, 0, 23), "it is for protocols"),
        (v6(0x2001, 0xdb8, 32), "it is for documentation"),
        (v6(0x2002, 0, 16), "it is 6to4"),
        (v6(0x3fff, 0, 20), "it is for documentation"),
        (v6(0xfc00, 0, 7), "it is private"),
        (v6(0xfe80, 0, 10), "it is link-local"),
        (v6(0xfec0, 0, 10), "it is site-local"),
        (v6(0xff00, 0, 8), "it is multicast"),
    ];
    let named = nets.iter().find(|(net, _)| net.contains(&ip)).map(|it| it.1);
    let global = v6(0x2000, 0, 3).contains(&ip);
    named.or_else(|| (!global).then_some("it is reserved"))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> Result<Vec<SocketAddr>, Forbidden> {
        let target = Target::parse(text)?;
        let ip = target.host().expect_err("an address, not a name");
        target.check(&[ip], &Exceptions::default())
    }

    /// NO-1, N-12: every way to write an address that is not public.
    #[test]
    fn what_is_not_public_is_refused_however_it_is_written() {
        let refused = [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://2130706433/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::127.0.0.1]/",
            "https://[64:ff9b::10.0.0.1]/",
            "https://[2002:7f00:1::]/",
            "https://[::1]/",
            "https://[::]/",
            "https://0.0.0.0/",
            "https://10.1.2.3/",
            "https://100.64.0.1/",
            "https://169.254.169.254/latest/meta-data/",
            "https://172.31.0.1/",
            "https://192.168.1.1/",
            "https://198.19.0.1/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
            "https://[fd00::1]/",
            "https://[fe80::1]/",
            "https://[ff02::1]/",
            "https://[2001:db8::1]/",
            "https://\u{ff11}27.0.0.1/",
            "https://127\u{3002}0.0.1/",
        ];
        for text in refused {
            let answer = literal(text);
            assert!(matches!(answer, Err(Forbidden::NotPublic { .. })), "{text}: {answer:?}");
        }
        assert!(literal("https://93.184.215.14/").is_ok());
        assert!(literal("https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/").is_ok());
    }

    /// NO-1: what is no address of a webhook at all.
    #[test]
    fn only_https_without_a_password_on_its_port() {
        let refused = [
            "ftp://93.184.215.14/",
            "javascript:alert(1)",
            "https://user:secret@93.184.215.14/",
            "https://user@93.184.215.14/",
            "https://",
            "nothing",
            "https:\\\\93.184.215.14\\",
            "http://93.184.215.14/",
            "https://93.184.215.14:8443/",
        ];
        for text in refused {
            assert!(matches!(literal(text), Err(Forbidden::Address(_))), "{text}");
        }
    }

    /// One bad address among good ones is enough: which one is called nobody knows.
    #[test]
    fn every_address_of_a_name_must_be_public() {
        let target = Target::parse("https://hooks.example/").unwrap();
        let good: IpAddr = "93.184.215.14".parse().unwrap();
        let bad: IpAddr = "127.0.0.1".parse().unwrap();
        let none = Exceptions::default();
        assert!(target.check(&[good], &none).is_ok());
        assert!(target.check(&[good, bad], &none).is_err());
        assert!(matches!(target.check(&[], &none), Err(Forbidden::Unknown(_))));
        let local = Exceptions::parse(&["127.0.0.0/8:443".to_owned()]).unwrap();
        assert!(target.check(&[good, bad], &local).is_ok());
        assert!(Exceptions::parse(&["nonsense".to_owned()]).is_err());
    }
}
