//! The secret keys of a deployment: the current one, which seals, signs and derives, and previous ones, which
//! open and verify only. During a rotation processes with both orders run beside each other.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use aws_lc_rs::hkdf;

use super::{Secret, equal, file, key_id, mac, open, seal};

/// The secret keys of a deployment, from which a key for each purpose is derived (HKDF-SHA-256).
#[derive(Clone)]
pub struct Key(Arc<Ring>);

struct Ring {
    /// The keys of the file; the current one is the first.
    roots: Vec<Root>,
    /// Facts about former keys that the database has, by purpose.
    histories: RwLock<HashMap<String, History>>,
}

/// A key of the file.
struct Root {
    secret: Secret,
    check_value: Secret,
}

/// Former keys of one purpose.
#[derive(Clone, Default)]
struct History {
    /// Check value of the key with which the deployment was set up.
    original: Option<Secret>,
    /// Derived keys of secret keys that may be missing in the file.
    retained: Vec<Version>,
}

/// A derived key, and the check value of the secret key from which it was derived.
#[derive(Clone, Copy)]
struct Version {
    check_value: Secret,
    secret: Secret,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Makes a ring of keys, the current one first. Panics without a key.
    pub fn new(secrets: &[Secret]) -> Self {
        assert!(!secrets.is_empty(), "a deployment has a key");
        let root = |it: &Secret| Root { secret: *it, check_value: derive(it, "check value") };
        let roots = secrets.iter().map(root).collect();
        Self(Arc::new(Ring { roots, histories: RwLock::default() }))
    }

    /// Reads a key file: lines of 64 hexadecimal digits, the current key first. Empty lines, and the rest of
    /// a line after `#`, are ignored.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        Ok(Self::new(&file::read(path)?))
    }

    /// Reads a key file, and creates it with a random key if it is missing.
    pub fn read_or_create(path: &Path) -> anyhow::Result<Self> {
        file::create_if_missing(path)?;
        Self::read(path)
    }

    /// Returns the check value of the current key: it differs for each key, and does not reveal the key.
    pub fn check_value(&self) -> Secret {
        self.0.roots[0].check_value
    }

    /// Iterates over the check values of all keys of the file, the current one first.
    pub fn check_values(&self) -> impl Iterator<Item = Secret> {
        self.0.roots.iter().map(|it| it.check_value)
    }

    /// Ids of all keys of the file, for operators.
    pub fn ids(&self) -> Vec<String> {
        self.check_values().map(|it| key_id(&it)).collect()
    }

    /// Derives the keys for one purpose.
    pub fn derive(&self, purpose: &str) -> DerivedKeys {
        let version = |it: &Root| Version {
            check_value: it.check_value,
            secret: derive(&it.secret, purpose),
        };
        let versions = self.0.roots.iter().map(version).collect();
        DerivedKeys { purpose: purpose.into(), versions, ring: self.clone() }
    }

    /// Sets the key with which the deployment was set up, see [`DerivedKeys::original`].
    pub fn set_original(&self, purpose: &str, check_value: Secret) {
        let mut histories = self.0.histories.write().unwrap_or_else(PoisonError::into_inner);
        histories.entry(purpose.to_owned()).or_default().original = Some(check_value);
    }

    /// Adds a derived key of a secret key that may be missing in the file.
    pub fn retain(&self, purpose: &str, check_value: Secret, secret: Secret) {
        let mut histories = self.0.histories.write().unwrap_or_else(PoisonError::into_inner);
        let retained = &mut histories.entry(purpose.to_owned()).or_default().retained;
        if !retained.iter().any(|it| it.check_value == check_value) {
            retained.push(Version { check_value, secret });
        }
    }

    fn history(&self, purpose: &str) -> History {
        let histories = self.0.histories.read().unwrap_or_else(PoisonError::into_inner);
        histories.get(purpose).cloned().unwrap_or_default()
    }
}

fn derive(secret: &Secret, purpose: &str) -> Secret {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tenantry").extract(secret);
    let info = [purpose.as_bytes()];
    let mut derived = Secret::default();
    prk.expand(&info, hkdf::HKDF_SHA256)
        .and_then(|it| it.fill(&mut derived))
        .expect("HKDF gives 32 bytes");
    derived
}

/// The keys for one purpose. New values are made with the current key; those of previous and retained keys
/// are accepted, too.
#[derive(Clone)]
pub struct DerivedKeys {
    purpose: Arc<str>,
    /// Derived from the keys of the file, in their order.
    versions: Arc<[Version]>,
    ring: Key,
}

/// Result of [`DerivedKeys::reseal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resealed {
    /// The value is sealed with the current key.
    Current,
    /// A previous key has sealed the value.
    Changed {
        /// The value, sealed with the current key.
        sealed: Vec<u8>,
        /// Check value of the previous key.
        previous: Secret,
    },
    /// No key opens the value.
    Unreadable,
}

impl DerivedKeys {
    /// Encrypts bytes with the current key (AES-256-GCM). They decrypt only with the same associated data.
    pub fn seal(&self, associated_data: &[u8], plain: &[u8]) -> Vec<u8> {
        seal(&self.current(), associated_data, plain)
    }

    /// Decrypts the result of [`Self::seal`]; `None` if it was modified, the associated data differ, or no
    /// key opens it.
    pub fn open(&self, associated_data: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.secrets().find_map(|it| open(&it, associated_data, sealed))
    }

    /// Seals a value with the current key if another one has sealed it.
    pub fn reseal(&self, associated_data: &[u8], sealed: &[u8]) -> Resealed {
        let opened =
            |it: Version| Some((it.check_value, open(&it.secret, associated_data, sealed)?));
        let Some((check_value, plain)) = self.all().into_iter().find_map(opened) else {
            return Resealed::Unreadable;
        };
        if check_value == self.versions[0].check_value {
            return Resealed::Current;
        }
        Resealed::Changed { sealed: self.seal(associated_data, &plain), previous: check_value }
    }

    /// HMAC-SHA-256 of several parts with the current key, see [`mac`].
    pub fn mac(&self, parts: &[&[u8]]) -> Secret {
        mac(&self.current(), parts)
    }

    /// True if `tag` is the start of a MAC with any of the keys. `tag` must have the length that the caller
    /// truncates to.
    pub fn verify_mac(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        let is_start = |it: Secret| it.get(..tag.len()).is_some_and(|it| equal(it, tag));
        self.secrets().any(|it| is_start(mac(&it, parts)))
    }

    /// The current key.
    pub fn current(&self) -> Secret {
        self.versions[0].secret
    }

    /// Iterates over the keys of the file, the current one first.
    pub fn in_file(&self) -> impl Iterator<Item = Secret> {
        self.versions.iter().map(|it| it.secret)
    }

    /// Iterates over all keys: those of the file, the current one first, then the retained ones.
    pub fn secrets(&self) -> impl Iterator<Item = Secret> {
        self.all().into_iter().map(|it| it.secret)
    }

    /// The key that is derived from the secret key with which the deployment was set up. For values that
    /// stay equal for ever. Without a database, the current key.
    pub fn original(&self) -> Secret {
        let original = self.ring.history(&self.purpose).original;
        let found =
            original.and_then(|it| self.all().into_iter().find(|key| key.check_value == it));
        found.map_or_else(|| self.current(), |it| it.secret)
    }

    /// True if the current key is the one with which the deployment was set up.
    pub fn is_original(&self) -> bool {
        let original = self.ring.history(&self.purpose).original;
        original.is_none_or(|it| it == self.versions[0].check_value)
    }

    /// Id of the current secret key.
    pub fn id(&self) -> String {
        key_id(&self.versions[0].check_value)
    }

    /// Returns the key that is derived from the secret key with an id.
    pub fn with_id(&self, id: &str) -> Option<Secret> {
        self.all().into_iter().find(|it| key_id(&it.check_value) == id).map(|it| it.secret)
    }

    /// Returns the key that is derived from the secret key with a check value.
    pub fn with_check_value(&self, check_value: &Secret) -> Option<Secret> {
        self.all().into_iter().find(|it| it.check_value == *check_value).map(|it| it.secret)
    }

    fn all(&self) -> Vec<Version> {
        let mut all = self.versions.to_vec();
        let retained = self.ring.history(&self.purpose).retained;
        let is_missing =
            |it: &Version| !self.versions.iter().any(|known| known.check_value == it.check_value);
        all.extend(retained.into_iter().filter(is_missing));
        all
    }
}

#[cfg(test)]
mod tests;
