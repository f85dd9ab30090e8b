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
}
