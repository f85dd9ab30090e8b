//! URLs of webhooks: only https to public addresses is allowed (N-12). Every address of a host is checked,
//! and requests go only to the checked addresses: the name is not resolved a second time (DNS rebinding).

use std::net::{IpAddr, SocketAddr};

use api::error::Reason;
use chassis::{
    Code, Refusal,
    public_address::{Exceptions, not_public},
};
use url::{Host, Url};

/// Reasons for refusing a URL.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Forbidden {
    #[error("the URL of a webhook {0}")]
    Url(&'static str),
    #[error("requests to {address} are not allowed: {why}; use a public address")]
    NotPublic { address: String, why: &'static str },
    #[error("the host {0} has no address; check the URL and its DNS records")]
    UnknownHost(String),
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
            Self::Url(why) => vec![("why", (*why).to_owned())],
            Self::NotPublic { address, why } => {
                vec![("address", address.clone()), ("why", (*why).to_owned())]
            }
            Self::UnknownHost(name) => vec![("address", name.clone())],
        }
    }
}

/// A well-formed URL, whose host is not resolved yet.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: Url,
    pub(crate) port: u16,
}

impl Target {
    /// Parses a URL like a browser (WHATWG URL): `https://0x7f.1/` is `https://127.0.0.1/`.
    pub(crate) fn parse(text: &str) -> Result<Self, Forbidden> {
        let Ok(url) = Url::parse(text) else { return Err(Forbidden::Url("must be valid")) };
        if !["https", "http"].contains(&url.scheme()) {
            return Err(Forbidden::Url("must begin with https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Forbidden::Url("must not contain a user name or a password"));
        }
        if text.contains('\\') {
            return Err(Forbidden::Url("must not contain a backslash"));
        }
        match (url.host(), url.port_or_known_default()) {
            (Some(_), Some(port)) => Ok(Self { url, port }),
            _ => Err(Forbidden::Url("must contain a host")),
        }
    }

    /// The host: a domain name to resolve, or an address.
    pub(crate) fn host(&self) -> Host<&str> {
        self.url.host().unwrap_or(Host::Domain(""))
    }

    /// The socket addresses of the target, if every one of its IP addresses is allowed.
    pub(crate) fn check(
        &self,
        addresses: &[IpAddr],
        exceptions: &Exceptions,
    ) -> Result<Vec<SocketAddr>, Forbidden> {
        if addresses.is_empty() {
            return Err(Forbidden::UnknownHost(self.url.host_str().unwrap_or_default().to_owned()));
        }
        let mut allowed = vec![];
        for ip in addresses {
            let address = SocketAddr::new(*ip, self.port);
            if !exceptions.contain(address) {
                if let Some(why) = not_public(*ip) {
                    return Err(Forbidden::NotPublic { address: ip.to_string(), why });
                }
                if self.url.scheme() != "https" {
                    return Err(Forbidden::Url("must begin with https://"));
                }
                if self.port != 443 {
                    return Err(Forbidden::Url("must use port 443"));
                }
            }
            allowed.push(address);
        }
        Ok(allowed)
    }
}

/// Host of a URL, to be shown; empty if the URL is malformed.
pub(super) fn host_name(url: &str) -> String {
    let host = Target::parse(url).ok().and_then(|it| it.url.host_str().map(str::to_owned));
    host.unwrap_or_default()
}

/// The address of a target whose host is one.
#[cfg(test)]
fn ip_address(target: &Target) -> Option<IpAddr> {
    match target.host() {
        Host::Ipv4(ip) => Some(ip.into()),
        Host::Ipv6(ip) => Some(ip.into()),
        Host::Domain(_) => None,
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a URL whose host is an address.
    fn check(text: &str) -> Result<Vec<SocketAddr>, Forbidden> {
        let target = Target::parse(text)?;
        let ip = ip_address(&target).expect("the host is an address");
        target.check(&[ip], &Exceptions::default())
    }

    /// NO-1, N-12: every spelling of an address that is not public.
    #[test]
    fn addresses_that_are_not_public_are_refused_in_every_spelling() {
        let refused = "
            https://127.0.0.1/ https://127.1/ https://0x7f.1/ https://0177.0.0.1/
            https://2130706433/ https://[::ffff:127.0.0.1]/ https://[::127.0.0.1]/
            https://[64:ff9b::10.0.0.1]/ https://[2002:7f00:1::]/ https://[::1]/ https://[::]/
            https://0.0.0.0/ https://10.1.2.3/ https://100.64.0.1/
            https://169.254.169.254/latest/meta-data/ https://172.31.0.1/ https://192.168.1.1/
            https://198.19.0.1/ https://224.0.0.1/ https://255.255.255.255/ https://[fd00::1]/
            https://[fe80::1]/ https://[ff02::1]/ https://[2001:db8::1]/
            https://\u{ff11}27.0.0.1/ https://127\u{3002}0.0.1/
        ";
        for text in refused.split_whitespace() {
            let checked = check(text);
            assert!(matches!(checked, Err(Forbidden::NotPublic { .. })), "{text}: {checked:?}");
        }
        assert!(check("https://93.184.215.14/").is_ok());
        assert!(check("https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/").is_ok());
    }

    /// NO-1: malformed URLs, and other schemes and ports.
    #[test]
    fn only_https_urls_without_a_password_on_port_443_are_allowed() {
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
            assert!(matches!(check(text), Err(Forbidden::Url(_))), "{text}");
        }
    }

    /// One forbidden address is enough, because the HTTP client chooses among them.
    #[test]
    fn every_address_of_a_name_must_be_public() {
        let target = Target::parse("https://hooks.example/").unwrap();
        let public: IpAddr = "93.184.215.14".parse().unwrap();
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let none = Exceptions::default();
        assert!(target.check(&[public], &none).is_ok());
        assert!(target.check(&[public, loopback], &none).is_err());
        assert!(matches!(target.check(&[], &none), Err(Forbidden::UnknownHost(_))));
        let exceptions = Exceptions::parse("--x", &["127.0.0.0/8:443".to_owned()]).unwrap();
        assert!(target.check(&[public, loopback], &exceptions).is_ok());
        assert!(Exceptions::parse("--x", &["nonsense".to_owned()]).is_err());
    }
}
