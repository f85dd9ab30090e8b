//! Masking of credentials in URLs, before a text with them is stored or shown.

/// Replacement of a credential.
pub const MASK: &str = "***";

/// Masks the user information of URLs in a text: `https://***@host/path`. A user name without a password is
/// kept in URLs other than http and https, as in `ssh://git@host`.
pub fn mask_credentials(text: &str) -> String {
    if !text.contains("://") {
        return text.to_owned();
    }
    let mut parts = text.split("://");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_http = masked.ends_with("http") || masked.ends_with("https");
        masked.push_str("://");
        let is_end = |it: char| it.is_whitespace() || "/?#\\'\"<>".contains(it);
        let authority = &part[..part.find(is_end).unwrap_or(part.len())];
        match authority.rsplit_once('@') {
            Some((user, _)) if is_http || user.contains(':') => {
                masked.push_str(MASK);
                masked.push_str(&part[user.len()..]);
            }
            _ => masked.push_str(part),
        }
    }
    masked
}

/// Masks the user information, the query and the fragment of a text that is a URL; other texts, for example
/// paths, are returned unchanged.
pub fn mask_url(url: &str) -> String {
    let masked = mask_credentials(url);
    match masked.find("://").and_then(|scheme| Some((scheme, masked.find(['?', '#'])?))) {
        Some((scheme, end)) if end > scheme => format!("{}{MASK}", &masked[..=end]),
        _ => masked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_in_a_url_is_masked() {
        for (text, masked) in [
            ("https://ann:s3cret@x.example/a", "https://***@x.example/a"),
            ("see 'https://t0ken@x.example/a': no", "see 'https://***@x.example/a': no"),
            ("ssh://git:pw@x/a and http://u@y", "ssh://***@x/a and http://***@y"),
            ("https://a@b:c@x.example", "https://***@x.example"),
            ("ssh://git@x.example/a", "ssh://git@x.example/a"),
            ("https://x.example/a@b", "https://x.example/a@b"),
            ("postgres://u:p@h/d", "postgres://***@h/d"),
            ("plain: a@b ://", "plain: a@b ://"),
        ] {
            assert_eq!(mask_credentials(text), masked);
            assert_eq!(mask_credentials(masked), masked, "a masked text stays as it is");
        }
    }

    #[test]
    fn the_query_of_a_url_is_masked() {
        for (url, masked) in [
            ("https://x.example/a?token=s3cret", "https://x.example/a?***"),
            ("https://u:p@x.example/a#s3cret", "https://***@x.example/a#***"),
            ("https://x.example/a.git", "https://x.example/a.git"),
            ("/srv/a?b", "/srv/a?b"),
        ] {
            assert_eq!(mask_url(url), masked);
            assert_eq!(mask_url(masked), masked, "a masked URL stays as it is");
        }
    }
}
