//! E-mail addresses: validation, and the canonical form in which two of them are compared.

/// A valid e-mail address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address as a person typed it, to which mail is sent.
    pub typed: Email,
    /// The form for comparisons: domain in lower-case ASCII (IDNA), local part in ASCII lower case.
    pub canonical: String,
}

/// An e-mail address as a person typed it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub struct Email(pub String);

/// Longest address in bytes, without the angle brackets (RFC 5321, 4.5.3.1.3).
const ADDRESS_BYTES_MAX: usize = 254;

/// True if the canonical form of an address equals `canonical`.
pub fn matches_canonical(typed: &str, canonical: &str) -> bool {
    parse(typed).is_some_and(|it| it.canonical == canonical)
}

/// Parses an address, without white space around it; `None` if it is not valid. No other code converts
/// addresses to lower case, because the
/// conversions of Rust and PostgreSQL differ for some characters. Dots and plus-tags are significant:
/// providers treat them differently.
pub fn parse(text: &str) -> Option<Address> {
    let text = text.trim();
    let (local, domain) = text.split_once('@').filter(|_| text.len() <= ADDRESS_BYTES_MAX)?;
    let is_atext = |it: u8| it.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&it);
    let is_local_valid = (1..=64).contains(&local.len())
        && local.bytes().all(is_atext)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..");
    let domain = idna::domain_to_ascii_strict(domain).ok()?;
    let is_label = |it: &str| !it.is_empty() && it.len() <= 63;
    // A numeric top-level domain would be an IPv4 address.
    let has_numeric_end =
        domain.rsplit('.').next().is_some_and(|it| it.bytes().all(|it| it.is_ascii_digit()));
    let is_domain_valid = domain.len() <= 253
        && domain.contains('.')
        && domain.split('.').all(is_label)
        && !has_numeric_end;
    if !is_local_valid || !is_domain_valid {
        return None;
    }
    let canonical = format!("{}@{domain}", local.to_ascii_lowercase());
    // An international domain is longer in ASCII, which is what mail servers see.
    if canonical.len() > ADDRESS_BYTES_MAX {
        return None;
    }
    Some(Address { typed: Email(text.to_owned()), canonical })
}

/// Hides the local part but for its first character (`b…@example.com`): its owner recognizes the address, and
/// others do not learn it.
pub fn masked(canonical: &str) -> String {
    let (local, domain) = canonical.split_once('@').unwrap_or_default();
    format!("{}…@{domain}", local.chars().next().unwrap_or('…'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Option<String> {
        parse(text).map(|it| it.canonical)
    }

    #[test]
    fn only_case_and_international_domains_are_folded() {
        assert_eq!(canonical("Ann.B+x@Example.COM").as_deref(), Some("ann.b+x@example.com"));
        assert_eq!(canonical("ann@bücher.example").as_deref(), Some("ann@xn--bcher-kva.example"));
        assert_ne!(canonical("ann+x@example.com"), canonical("ann@example.com"));
    }

    #[test]
    fn white_space_around_an_address_is_removed() {
        assert_eq!(parse(" ann@example.com\u{a0}").unwrap().typed.0, "ann@example.com");
    }

    #[test]
    fn look_alikes_and_malformed_addresses_are_refused() {
        let refused = [
            "",
            "@",
            "ann",
            "ann@",
            "@example.com",
            "a@b@c.example",
            "ann@example",
            "ann@example.com.",
            "m\u{131}ke@example.com",
            "\u{212a}elvin@example.com",
            "\"a b\"@example.com",
            "a b@example.com",
            "ann@[127.0.0.1]",
            "ann@127.0.0.1",
            "ann@example..com",
            ".ann@example.com",
            "a..b@example.com",
            "ann@example.com,bob@example.com",
            "ann@exam\u{0}ple.com",
        ];
        let too_long_in_ascii = format!("ann.the.first@{}example", "bücher.".repeat(17));
        for text in refused.into_iter().chain([too_long_in_ascii.as_str()]) {
            assert_eq!(canonical(text), None, "{text:?}");
        }
    }

    #[test]
    fn canonicalizing_is_idempotent() {
        for text in ["Ann@Example.com", "x+y@bücher.example"] {
            let once = canonical(text).unwrap();
            assert_eq!(canonical(&once).as_ref(), Some(&once));
        }
    }
}
