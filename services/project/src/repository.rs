//! Where code may come from.

/// Why an address is no repository that a runner may fetch; `None` if it is one. A path on the runner's
/// machine only where the operator allows it.
pub(crate) fn wrong_url(url: &str, local_allowed: bool) -> Option<&'static str> {
    let scp_like = url.strip_prefix("git@").is_some_and(|rest| {
        rest.split_once(':').is_some_and(|(host, path)| !host.is_empty() && !path.is_empty())
    });
    let remote = ["https://", "ssh://"].iter().any(|it| {
        let rest = url.strip_prefix(it).unwrap_or_default();
        rest.split('/').next().is_some_and(|host| !host.is_empty())
            && !rest.contains(char::is_whitespace)
    });
    match () {
        () if scp_like || remote => None,
        () if url.starts_with('/') && local_allowed => None,
        () if url.starts_with('/') => {
            Some("may not be a path on this server; start it with --local-repositories true")
        }
        () => Some("must begin with https://, ssh:// or git@host:"),
    }
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
            "/srv/a",
        ] {
            assert!(wrong_url(bad, false).is_some(), "{bad}");
        }
        assert_eq!(wrong_url("/srv/a", true), None);
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
