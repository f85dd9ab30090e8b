//! Recipients of mail: e-mail addresses that opted out of mail from organizations, or whose mail server
//! rejects it. Compared in canonical form, and the same for all organizations.

pub(crate) mod store;

use chassis::key::{self, Key, Secret};
use data_encoding::BASE64URL_NOPAD;

/// Purpose that the encryption of opt-out links is bound to.
const PURPOSE: &[u8] = b"opt-out";

/// Links to the page that opts an address out. They contain the address, encrypted.
#[derive(Clone)]
pub(crate) struct OptOutLinks {
    key: Secret,
    base_url: String,
}

impl OptOutLinks {
    /// Derives the key of links. The base URL comes from the configuration, never from a request (N-08).
    pub(crate) fn new(key: &Key, base_url: String) -> Self {
        Self { key: key.derive("opt-out links"), base_url }
    }

    /// URL of the opt-out page of an address.
    pub(crate) fn url(&self, address: &str) -> String {
        let sealed = key::seal(&self.key, PURPOSE, address.as_bytes());
        format!("{}/opt-out/{}", self.base_url, BASE64URL_NOPAD.encode(&sealed))
    }

    /// Decrypts the address in the last path segment of a link; `None` if it is damaged.
    pub(crate) fn open(&self, segment: &str) -> Option<String> {
        let sealed = BASE64URL_NOPAD.decode(segment.as_bytes()).ok()?;
        String::from_utf8(key::open(&self.key, PURPOSE, &sealed)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_contains_its_address_encrypted() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::read_or_create(&dir.path().join("key")).unwrap();
        let links = OptOutLinks::new(&key, "https://tenantry.example".to_owned());
        let url = links.url("bob@example.com");
        assert!(!url.contains("bob"), "{url}");
        let segment = url.strip_prefix("https://tenantry.example/opt-out/").unwrap();
        assert_eq!(links.open(segment).as_deref(), Some("bob@example.com"));
        assert_eq!(links.open("AAAA"), None);
    }
}
