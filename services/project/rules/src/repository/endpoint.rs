//! Scheme, host and port of a repository URL: the Git server that it is on.

use url::Host;

/// Scheme of a repository URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
    Ssh,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Ssh => "ssh",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            Self::Ssh => 22,
        }
    }
}

/// A Git server. Its text is `scheme://host:port`, without a default port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub scheme: Scheme,
    /// Name in lower case, or address; an IPv6 address is in brackets.
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host)?;
        if self.port == self.scheme.default_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl Endpoint {
    /// The server of a URL with http, https or ssh, or of `git@host:path`; `None` for other texts.
    pub fn of(url: &str) -> Option<Self> {
        let (scheme, authority) = match url.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("ssh", rest)) => (Scheme::Ssh, rest),
            Some(_) => return None,
            None => (Scheme::Ssh, url.strip_prefix("git@")?.split_once(':')?.0),
        };
        let authority = authority.split('/').next().unwrap_or_default().to_ascii_lowercase();
        let host = authority.rsplit_once('@').map_or(authority.as_str(), |it| it.1);
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (host, scheme.default_port()),
        };
        Some(Self { scheme, host: host.to_owned(), port })
    }

    /// The host to resolve. `None` for a text that programs read in different ways, for example `0x7f.1`, or
    /// a name with a dot at its end: the checked address could differ from the one that git connects to.
    pub fn resolvable_host(&self) -> Option<Host> {
        let host = Host::parse(&self.host).ok()?;
        (host.to_string() == self.host && !self.host.ends_with('.')).then_some(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_server() {
        for (url, server) in [
            ("https://Git.example.com:443/a/b.git", "https://git.example.com"),
            ("https://git.example.com:8443/a", "https://git.example.com:8443"),
            ("http://[::1]:80/a", "http://[::1]"),
            ("ssh://git@git.example.com:2222/a", "ssh://git.example.com:2222"),
            ("ssh://git.example.com/a", "ssh://git.example.com"),
            ("git@Git.example.com:a/b.git", "ssh://git.example.com"),
        ] {
            assert_eq!(Endpoint::of(url).unwrap().to_string(), server, "{url}");
        }
        for other in ["/srv/a", "file:///srv/a", "https://x:y/a"] {
            assert_eq!(Endpoint::of(other), None, "{other}");
        }
    }

    #[test]
    fn only_hosts_with_one_meaning_are_resolved() {
        let host = |url| Endpoint::of(url).unwrap().resolvable_host();
        for good in ["https://git.example.com/a", "https://127.0.0.1/a", "ssh://[::1]/a"] {
            assert!(host(good).is_some(), "{good}");
        }
        for bad in ["https://0x7f.1/a", "https://2130706433/a", "https://127.1/a", "git@x.:a"] {
            assert_eq!(host(bad), None, "{bad}");
        }
    }
}
