//! Credentials in repository URLs: refused in requests, and moved out of the URLs of older versions.

use api::error::Reason;
use chassis::{Code, Refusal};

/// Refusal of a URL with a credential.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} must not contain a user name, password, token, query or fragment, because everybody who sees it \
     would see them; remove them from the URL, store them in a Git connection (CreateGitConnection), which \
     encrypts them, and name it in git_connection_id of the project"
)]
pub struct CredentialInUrl(
    /// Name of the field.
    pub &'static str,
);

impl Refusal for CredentialInUrl {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }

    fn reason(&self) -> Reason {
        Reason::RepositoryUrlHasCredential
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        vec![("field", self.0.to_owned())]
    }
}

/// A URL with its credential taken out.
pub struct SplitUrl {
    pub url: String,
    /// `user:password` for HTTP basic authentication; `None` if the scheme has none.
    pub credential: Option<String>,
}

/// The parts of a URL that can be or contain a credential.
struct Parts<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    host_and_path: String,
    /// Query or fragment without its first character; empty if there is none.
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    /// `None` for a path, and for `git@host:path`.
    fn of(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (rest, suffix) = rest.split_once(['?', '#']).unwrap_or((rest, ""));
        let (authority, path) = match rest.find('/') {
            Some(path) => rest.split_at(path),
            None => (rest, ""),
        };
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        Some(Self { scheme, user, host_and_path: format!("{host}{path}"), suffix })
    }

    fn is_http(&self) -> bool {
        matches!(self.scheme, "http" | "https")
    }
}

/// True if a URL contains a user name (which may be a token) with http or https, a password, or a query or
/// fragment, which may contain a token.
pub fn has_credential(url: &str) -> bool {
    Parts::of(url).is_some_and(|it| {
        let has_secret = |user: &str| it.is_http() || user.contains(':');
        url.contains(['?', '#']) || it.user.is_some_and(has_secret)
    })
}

/// Takes the credential out of a URL that an older version has stored; `None` if it has none. Without user
/// information, the credential is the value of the first parameter of the query. An ssh URL keeps its user
/// name and loses its password, which ssh does not use.
pub fn split_credential(url: &str) -> Option<SplitUrl> {
    let parts = Parts::of(url).filter(|_| has_credential(url))?;
    if !parts.is_http() {
        let user = parts.user.and_then(|it| it.split(':').next());
        let user = user.map(|it| format!("{it}@")).unwrap_or_default();
        let url = format!("{}://{user}{}", parts.scheme, parts.host_and_path);
        return Some(SplitUrl { url, credential: None });
    }
    let first_parameter = parts.suffix.split('&').next().unwrap_or_default();
    let value = first_parameter.split_once('=').map_or(first_parameter, |it| it.1);
    let credential = match parts.user {
        Some(user) => user.split_once(':').map(|it| decoded(it.0, it.1)),
        None if value.is_empty() => None,
        None => Some(percent_decode(value)),
    };
    // A user name without a password is a token.
    let credential = credential.or_else(|| parts.user.map(|it| decoded(it, "")));
    Some(SplitUrl { url: format!("{}://{}", parts.scheme, parts.host_and_path), credential })
}

fn decoded(user: &str, password: &str) -> String {
    format!("{}:{}", percent_decode(user), percent_decode(password))
}

/// Decodes `%XX`; an invalid escape is kept, and invalid UTF-8 is replaced.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        if let Some(byte) = after.get(..2).and_then(hex_byte) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(b'%');
            rest = after;
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_byte(digits: &str) -> Option<u8> {
    let is_hex = digits.bytes().all(|it| it.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_found_and_taken_out_of_its_url() {
        for (url, clean, credential) in [
            ("https://ann:s3%40cret@x.example/a", "https://x.example/a", Some("ann:s3@cret")),
            ("https://t0ken@x.example:8443/a", "https://x.example:8443/a", Some("t0ken:")),
            ("https://a@b:c@x.example/a", "https://x.example/a", Some("a@b:c")),
            ("http://u:p@x.example/a?b=c", "http://x.example/a", Some("u:p")),
            ("https://x.example/a?private_token=t&b=c", "https://x.example/a", Some("t")),
            ("https://x.example/a#frag%zz", "https://x.example/a", Some("frag%zz")),
            ("https://x.example/a?", "https://x.example/a", None),
            ("ssh://git:pw@x.example/a", "ssh://git@x.example/a", None),
        ] {
            assert!(has_credential(url), "{url}");
            let split = split_credential(url).unwrap();
            assert_eq!((split.url.as_str(), split.credential.as_deref()), (clean, credential));
            assert!(!has_credential(&split.url), "{url}");
        }
        for url in ["https://x.example/a@b", "ssh://git@x/a", "git@x:a", "/srv/a?b", "ext::sh"] {
            assert!(!has_credential(url) && split_credential(url).is_none(), "{url}");
        }
    }
}
