//! Host names in lower case (RFC 1123, section 2.1).

/// Maximum length of a label, in bytes.
pub const LABEL_BYTES_MAX: usize = 63;

/// Maximum length of a host name, in bytes.
pub const HOSTNAME_BYTES_MAX: usize = 253;

/// Returns true if a text is a host name of at least two labels of lower-case letters, digits and hyphens,
/// and is no IPv4 address.
pub fn is_valid(text: &str) -> bool {
    let labels: Vec<_> = text.split('.').collect();
    let last_is_numeric =
        labels.last().is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
    let is_long_enough = labels.len() >= 2 && text.len() <= HOSTNAME_BYTES_MAX;
    is_long_enough && !last_is_numeric && labels.into_iter().all(is_label)
}

/// Returns the canonical form of a host name, for which [`is_valid`] is true: lower case, internationalized
/// labels in their ASCII form (UTS #46, strict). `None` if the text is no host name.
pub fn canonical(text: &str) -> Option<String> {
    idna::domain_to_ascii_strict(text).ok().filter(|it| is_valid(it))
}

/// Returns true if a host name is a domain, or below it.
pub fn is_at_or_below(hostname: &str, domain: &str) -> bool {
    let prefix = hostname.strip_suffix(domain);
    !domain.is_empty() && prefix.is_some_and(|it| it.is_empty() || it.ends_with('.'))
}

fn is_label(text: &str) -> bool {
    let is_allowed = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
    let has_valid_length = (1..=LABEL_BYTES_MAX).contains(&text.len());
    let has_hyphen_at_end = text.starts_with('-') || text.ends_with('-');
    has_valid_length && !has_hyphen_at_end && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_host_names_are_valid() {
        let long = "a".repeat(63);
        for good in ["a.b", "main-shop.apps.example.com", "1.example", "xn--bcher-kva.example"] {
            assert!(is_valid(good), "{good}");
        }
        assert!(is_valid(&format!("{long}.example")));
        for bad in [
            "",
            ".",
            "a",
            "a.",
            ".a",
            "a..b",
            "A.example",
            "a_b.example",
            "-a.example",
            "a-.example",
            "*.example",
            "a b.example",
            "a.example/",
            "a.example:80",
            "{env.HOME}.example",
            "10.0.0.1",
            "[::1]",
            "a.example\n",
            "ä.example",
            "a.example\0",
        ] {
            assert!(!is_valid(bad), "{bad:?}");
        }
        assert!(!is_valid(&format!("{long}a.example")));
        assert!(!is_valid(&format!("{}example", "a.".repeat(127))));
    }

    #[test]
    fn the_canonical_form_is_ascii_in_lower_case() {
        for (text, expected) in [
            ("Shop.Example.COM", "shop.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("shop\u{3002}example.com", "shop.example.com"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
        let invalid =
            ["shop.example.com.", "xn--a.example", "*.example", "a_b.example", "10.0.0.1", "shop"];
        for text in invalid {
            assert_eq!(canonical(text), None, "{text}");
        }
    }

    #[test]
    fn a_domain_contains_itself_and_the_names_below() {
        for name in ["example.com", "a.example.com", "a.b.example.com"] {
            assert!(is_at_or_below(name, "example.com"), "{name}");
        }
        for name in ["badexample.com", "com", "example.com.evil", ""] {
            assert!(!is_at_or_below(name, "example.com"), "{name}");
        }
        assert!(!is_at_or_below("example.com", ""));
    }
}
