//! E-mail addresses, and when two of them are the same.

/// An address as a person typed it, with the form by which it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// As typed; mail goes here.
    pub typed: Email,
    /// Domain in lower-case ASCII (IDNA), local part in ASCII lower case.
    pub canonical: String,
}

/// An address as it was typed.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub struct Email(pub String);

/// Bytes of an address without the angle brackets (RFC 5321, 4.5.3.1.3).
const ADDRESS_BYTES_MAX: usize = 254;

/// Whether an account's address is this one.
pub fn same(typed: &str, canonical: &str) -> bool {
    parse(typed).is_some_and(|it| it.canonical == canonical)
}

/// Reads an address. The only place that decides when two are the same: no other layer folds case,
/// because Unicode, Rust and PostgreSQL fold differently. Dots and plus-tags count (3.6).
pub fn parse(text: &str) -> Option<Address> {
    let (local, domain) = text.split_once('@').filter(|_| text.len() <= ADDRESS_BYTES_MAX)?;
    let plain = |it: u8| it.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&it);
    let local_fits = (1..=64).contains(&local.len())
        && local.bytes().all(plain)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..");
    let domain = idna::domain_to_ascii_strict(domain).ok()?;
    let label = |it: &str| !it.is_empty() && it.len() <= 63;
    let domain_fits = domain.len() <= 253
        && domain.contains('.')
        && domain.split('.').all(label)
        && domain
            .split('.')
            .next_back()
            .is_some_and(|it| !it.bytes().all(|it| it.is_ascii_digit()));
    if !local_fits || !domain_fits {
        return None;
    }
    let canonical = format!("{}@{domain}", local.to_ascii_lowercase());
    // An international domain is longer in ASCII, which is what mail servers see.
    if canonical.len() > ADDRESS_BYTES_MAX {
        return None;
    }
    Some(Address { typed: Email(text.to_owned()), canonical })
}

/// An address that tells its owner which one it is, and nobody else: `b…@example.com`.
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
    fn case_and_international_domains_fold_and_nothing_else_does() {
        assert_eq!(canonical("Ann.B+x@Example.COM").as_deref(), Some("ann.b+x@example.com"));
        assert_eq!(canonical("ann@bücher.example").as_deref(), Some("ann@xn--bcher-kva.example"));
        assert_ne!(canonical("ann+x@example.com"), canonical("ann@example.com"));
    }

    #[test]
    fn look_alikes_and_nonsense_are_refused() {
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
        let grows = format!("ann.the.first@{}example", "bücher.".repeat(17));
        for text in refused.into_iter().chain([grows.as_str()]) {
            assert_eq!(canonical(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_canonical_form_is_its_own_canonical_form() {
        for text in ["Ann@Example.com", "x+y@bücher.example"] {
            let once = canonical(text).unwrap();
            assert_eq!(canonical(&once).as_ref(), Some(&once));
        }
    }
}
