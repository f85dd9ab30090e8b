//! Keys of people (crypto-shredding, A-16): the personal fields of leaves are sealed under the key of a
//! person, and destroying that key erases them.

pub(crate) mod erase;
pub(crate) mod store;

use chassis::key::{Key, Secret};
use uuid::Uuid;

use crate::{
    seal::{SubjectId, pseudonym},
    search_index::{NamedTerm, TermKind},
};

/// Secrets of the deployment that protect the keys of people.
pub(crate) struct KeyVault {
    /// Key of the pseudonyms of e-mail addresses.
    pseudonym_key: Secret,
    /// Encrypts the keys of people in the database.
    key_encryption_key: Secret,
}

impl KeyVault {
    /// Derives the secrets from the key of the deployment.
    pub(crate) fn new(key: &Key) -> Self {
        Self {
            pseudonym_key: key.derive("audit pseudonyms"),
            key_encryption_key: key.derive("audit person keys"),
        }
    }

    /// Key of the pseudonyms of e-mail addresses.
    pub(crate) fn pseudonym_key(&self) -> &Secret {
        &self.pseudonym_key
    }

    fn encrypt_key(&self, id: SubjectId, subject_key: &Secret) -> Vec<u8> {
        chassis::key::seal(&self.key_encryption_key, id.as_bytes(), subject_key)
    }

    fn decrypt_key(&self, id: SubjectId, encrypted: &[u8]) -> Option<Secret> {
        chassis::key::open(&self.key_encryption_key, id.as_bytes(), encrypted)?.try_into().ok()
    }

    /// Returns the person that the name of an actor or an object belongs to; `None` if it is not personal
    /// data.
    pub(crate) fn subject_of_name(&self, named: &NamedTerm) -> Option<SubjectId> {
        let value = &named.term.value;
        match named.term.kind {
            TermKind::Actor => Uuid::try_parse(value).ok(),
            TermKind::Resource => match value.split_once(':')? {
                (id, "user" | "member") => Uuid::try_parse(id).ok(),
                (_, "invitation") => Some(pseudonym(&self.pseudonym_key, &named.name)),
                _ => None,
            },
            _ => None,
        }
    }
}
