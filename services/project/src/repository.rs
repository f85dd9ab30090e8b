//! Where code may come from.

/// A credential in an address, and where it belongs instead.
const CREDENTIAL: &str = "must hold no user name, password, token, query or fragment: everybody who sees the \
                          project would see it; give the server of the environment an SSH key or a git \
                          credential helper instead";

/// Why an address is no repository that a runner may fetch; `None` if it is one. A path on the runner's
/// machine only where the operator allows it. Git takes much more, and runs or reads some of it (`ext::`,
/// `file:`, hosts like options), so that this is a list of what is allowed.
pub(crate) fn wrong_url(url: &str, local_allowed: bool) -> Option<&'static str> {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "-._~/%+@:[]?#=&!$,;()'*".contains(it);
    if url.starts_with('/') {
        return match local_allowed {
            true if url.contains(char::is_control) => Some("must hold no control characters"),
            true => None,
            false => {
                Some("may not be a path on this server; start it with --local-repositories true")
            }
        };
    }
    let (rest, is_web) = match (url.strip_prefix("https://"), url.strip_prefix("ssh://")) {
        (Some(rest), _) => (rest, true),
        (_, Some(rest)) => (rest, false),
        _ => return wrong_scp_like(url),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, host) =
        authority.rsplit_once('@').map_or((None, authority), |it| (Some(it.0), it.1));
    match user {
        Some(user) if is_web || user.contains(':') => return Some(CREDENTIAL),
        Some(user) if !is_word(user) => return Some("must have a user name of letters and digits"),
        _ if url.contains(['?', '#']) => return Some(CREDENTIAL),
        _ => {}
    }
    match () {
        () if !is_host(host) => Some("must name a host, with a port or without"),
        () if path.is_empty() || !path.chars().all(is_plain) => {
            Some("must have a path of letters, digits, %-escapes and -._~/+@:")
        }
        () => None,
    }
}

/// The same for `git@host:path`.
fn wrong_scp_like(url: &str) -> Option<&'static str> {
    let rest = url.strip_prefix("git@").and_then(|it| it.split_once(':'));
    let Some((host, path)) = rest else {
        return Some("must begin with https://, ssh:// or git@host:");
    };
    let is_path = !path.is_empty()
        && !path.starts_with(['-', ':'])
        && path.chars().all(|it| it.is_ascii_alphanumeric() || "-._~/+".contains(it));
    let is_wrong = host.contains(':') || !is_host(host) || !is_path;
    is_wrong.then_some("must have a host and a path of letters, digits and -._~/+")
}

/// Whether this is a name, or an address, of a machine, with a port or without; never like an option.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let is_number = port.is_none_or(|it| it.parse::<u16>().is_ok());
    let address = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let is_address = address.is_some_and(|it| it.parse::<std::net::Ipv6Addr>().is_ok());
    is_number && (is_address || is_word(name))
}

/// Letters, digits, and what joins them; never like an option.
fn is_word(text: &str) -> bool {
    let is_inner = |it: char| it.is_ascii_alphanumeric() || "-._".contains(it);
    text.starts_with(|it: char| it.is_ascii_alphanumeric()) && text.chars().all(is_inner)
}

/// Why a text is no branch (2.1); `None` if it is one.
pub(crate) fn wrong_branch(branch: &str) -> Option<&'static str> {
    let forbidden = |it: char| it.is_control() || it.is_whitespace() || "~^:?*[\\".contains(it);
    let refs = ["refs/", "pull/", "pull-requests/", "merge-requests/"];
    let commit = matches!(branch.len(), 40 | 64) && branch.bytes().all(|it| it.is_ascii_hexdigit());
    match () {
        () if branch.is_empty() || branch.len() > 255 => Some("must have 1 to 255 characters"),
        () if branch.contains(forbidden) => {
            Some("must not contain blanks or any of ~ ^ : ? * [ \\")
        }
        () if branch.contains("..") || branch.starts_with(['/', '-']) => {
            Some("must not contain .. or begin with / or -")
        }
        () if refs.iter().any(|it| branch.starts_with(it)) || commit => {
            Some("must be a branch, no other ref")
        }
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fetchable_addresses_are_repositories() {
        for good in [
            "https://git.example.com/a/b.git",
            "ssh://git@example.com/a",
            "git@example.com:a/b.git",
            "https://example.com:8443/a%20b/~c+d.git",
            "ssh://[::1]:2222/a",
        ] {
            assert_eq!(wrong_url(good, false), None, "{good}");
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
            assert!(wrong_url(bad, false).is_some(), "{bad}");
        }
        assert_eq!(wrong_url("/srv/a", true), None);
        assert!(wrong_url("/srv/a\0", true).is_some());
        assert!(wrong_url("file:///srv/a", true).is_some());
        for secret in ["https://a:b@x/y", "https://t@x/y", "ssh://a:b@x/y", "https://x/y?t=1"] {
            assert_eq!(wrong_url(secret, true), Some(CREDENTIAL), "{secret}");
        }
    }

    #[test]
    fn a_branch_is_a_branch() {
        for good in ["main", "feature/x-1", "19.0"] {
            assert_eq!(wrong_branch(good), None, "{good}");
        }
        let hash = "a".repeat(40);
        for bad in
            ["", "a b", "a..b", "-x", "/x", "refs/heads/x", "pull/1", "a:b", &hash, "a\u{7}b"]
        {
            assert!(wrong_branch(bad).is_some(), "{bad}");
        }
    }
}
