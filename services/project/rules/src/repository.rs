//! Validation of repository URLs and branch names, and the credentials that a URL can contain.

mod credential;
mod endpoint;

pub use credential::{CredentialInUrl, has_credential, split_credential};
pub use endpoint::{Endpoint, Scheme};

/// Returns the violation of a URL that a runner must not fetch, or `None` if it is allowed. A path on the
/// runner's machine, and `http://` with a loopback address, need `allow_local`. This is an allow list,
/// because git accepts much more and executes or reads some of it: `ext::` commands, `file:` paths, host
/// names that begin like options. The caller refuses a URL with a credential first ([`has_credential`]).
pub fn url_violation(url: &str, allow_local: bool) -> Option<&'static str> {
    let is_path_char =
        |it: char| it.is_ascii_alphanumeric() || "-._~/%+@:[]=&!$,;()'*".contains(it);
    if url.starts_with('/') {
        return if !allow_local {
            Some("must not be a local path, unless the server runs with --local-repositories true")
        } else if url.contains(char::is_control) {
            Some("must not contain control characters")
        } else {
            None
        };
    }
    let Some((scheme, rest)) = url.split_once("://") else { return scp_like_violation(url) };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = match (scheme, authority.rsplit_once('@')) {
        ("https" | "ssh", None) => authority,
        ("http", None) if allow_local && is_loopback(authority) => authority,
        ("ssh", Some((user, _))) if !is_identifier(user) => {
            return Some("must have a user name of letters, digits and -._");
        }
        ("ssh", Some((_, host))) => host,
        _ => return Some("must begin with https://, ssh:// or git@host:"),
    };
    if !is_host(host) {
        Some("must have a valid host name or IPv6 address, with or without a port")
    } else if path.is_empty() || !path.chars().all(is_path_char) {
        Some("must have a path of letters, digits, %-escapes and -._~/+@:")
    } else {
        None
    }
}

/// Returns scheme, host and port of an http or https URL without a credential: the only place to which its
/// access token is sent. `None` for other URLs.
pub fn token_scope(url: &str) -> Option<String> {
    Endpoint::of(url).filter(|it| it.scheme != Scheme::Ssh).map(|it| it.to_string())
}

/// True for a loopback address or `localhost`, with or without a port.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|it| it.is_loopback())
}

/// Returns the violation of a URL that is not of the form `git@host:path`.
fn scp_like_violation(url: &str) -> Option<&'static str> {
    let rest = url.strip_prefix("git@").and_then(|it| it.split_once(':'));
    let Some((host, path)) = rest else {
        return Some("must begin with https://, ssh:// or git@host:");
    };
    let is_path = !path.is_empty()
        && !path.starts_with(['-', ':'])
        && path.chars().all(|it| it.is_ascii_alphanumeric() || "-._~/+".contains(it));
    let is_valid = !host.contains(':') && is_host(host) && is_path;
    (!is_valid).then_some("must have a host and a path of letters, digits and -._~/+")
}

/// True for a host name or a bracketed IPv6 address, with or without a port. False for text that begins
/// with `-`, which ssh would read as an option.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let is_port = port.is_none_or(|it| it.parse::<u16>().is_ok());
    let address = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let is_address = address.is_some_and(|it| it.parse::<std::net::Ipv6Addr>().is_ok());
    is_port && (is_address || is_identifier(name))
}

/// True for text of letters, digits and `-._` that begins with a letter or digit.
fn is_identifier(text: &str) -> bool {
    let is_inner = |it: char| it.is_ascii_alphanumeric() || "-._".contains(it);
    text.starts_with(|it: char| it.is_ascii_alphanumeric()) && text.chars().all(is_inner)
}

/// Returns the violation of a text that is not the name of a branch, or `None` if it is one.
pub fn branch_violation(branch: &str) -> Option<&'static str> {
    let is_forbidden = |it: char| it.is_control() || it.is_whitespace() || "~^:?*[\\".contains(it);
    let other_refs = ["refs/", "pull/", "pull-requests/", "merge-requests/"];
    let is_other_ref = other_refs.iter().any(|it| branch.starts_with(it));
    let is_commit =
        matches!(branch.len(), 40 | 64) && branch.bytes().all(|it| it.is_ascii_hexdigit());
    if branch.is_empty() || branch.len() > 255 {
        Some("must have 1 to 255 characters")
    } else if branch.contains(is_forbidden) {
        Some("must not contain white space, control characters or any of ~ ^ : ? * [ \\")
    } else if branch.contains("..") || branch.starts_with(['/', '-']) {
        Some("must not contain .. or begin with / or -")
    } else if is_other_ref || is_commit {
        Some("must be the name of a branch, not a commit or another ref")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_urls_pass() {
        for good in [
            "https://git.example.com/a/b.git",
            "ssh://git@example.com/a",
            "git@example.com:a/b.git",
            "https://example.com:8443/a%20b/~c+d.git",
            "ssh://[::1]:2222/a",
        ] {
            assert_eq!(url_violation(good, false), None, "{good}");
        }
        for bad in [
            "",
            "http://example.com/a",
            "file:///etc",
            "--upload-pack=x",
            "git@:x",
            "https://",
            "https://example.com",
            "/srv/a",
            "ext::sh -c true",
            "ssh://-oProxyCommand=x/a",
            "ssh://-l@example.com/a",
            "git@-x:a",
            "git@example.com:-x",
            "git@example.com::ext",
            "https://example.com:x/a",
            "https://example.com/a b",
            "https://example.com/a\u{7}",
            "https://[::g]/a",
        ] {
            assert!(url_violation(bad, false).is_some(), "{bad}");
        }
        assert_eq!(url_violation("/srv/a", true), None);
        assert!(url_violation("/srv/a\0", true).is_some());
        assert!(url_violation("file:///srv/a", true).is_some());
        for secret in ["https://a:b@x/y", "https://t@x/y", "ssh://a:b@x/y", "https://x/y?t=1"] {
            assert!(url_violation(secret, true).is_some(), "{secret}");
        }
        assert_eq!(url_violation("http://127.0.0.1:8080/a", true), None);
        assert!(url_violation("http://127.0.0.1:8080/a", false).is_some());
        assert!(url_violation("http://127.0.0.1.example.com/a", true).is_some());
    }

    #[test]
    fn a_token_is_sent_to_the_host_and_port_of_the_url_only() {
        let scope = |url| token_scope(url).unwrap_or_default();
        assert_eq!(scope("https://Git.example.com:443/a/b.git"), "https://git.example.com");
        assert_eq!(scope("https://git.example.com:8443/a"), "https://git.example.com:8443");
        assert_eq!(scope("http://[::1]:80/a"), "http://[::1]");
        for other in ["ssh://git@example.com/a", "git@example.com:a", "/srv/a"] {
            assert_eq!(scope(other), "", "{other}");
        }
    }

    #[test]
    fn only_names_of_branches_pass() {
        for good in ["main", "feature/x-1", "19.0"] {
            assert_eq!(branch_violation(good), None, "{good}");
        }
        let hash = "a".repeat(40);
        for bad in
            ["", "a b", "a..b", "-x", "/x", "refs/heads/x", "pull/1", "a:b", &hash, "a\u{7}b"]
        {
            assert!(branch_violation(bad).is_some(), "{bad}");
        }
    }
}
