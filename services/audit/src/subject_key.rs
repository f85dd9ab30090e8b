//! Keys of people (crypto-shredding, A-16): the personal fields of leaves are sealed under the key of a
//! person, and destroying that key erases them.

pub(crate) mod erase;
pub(crate) mod store;

use chassis::key::{DerivedKeys, Key, Secret};
use opentelemetry::{KeyValue, global, metrics::Counter};
use uuid::Uuid;
use worker::reseal::{self, KeyColumn, SealedColumn};

use self::store::StoredKey;
use crate::{
    seal::{SubjectId, SubjectKeys, pseudonym},
    search_index::{NamedTerm, TermKind},
};

/// Columns with keys of people.
pub(crate) const SEALED_COLUMNS: [SealedColumn; 2] = [
    SealedColumn {
        table: "person",
        column: "sealed",
        key: reseal::ID,
        purpose: "'audit person keys'",
        associated_data: "uuid_send(id)",
        convert: None,
    },
    SealedColumn {
        table: "person_interim_key",
        column: "sealed",
        key: &[
            KeyColumn { name: "person", sql_type: "uuid" },
            KeyColumn { name: "sealed", sql_type: "bytea" },
        ],
        purpose: "'audit person keys'",
        associated_data: "uuid_send(person)",
        convert: None,
    },
];

/// Secrets of the deployment that protect the keys of people.
pub(crate) struct KeyVault {
    /// Keys of the pseudonyms of e-mail addresses.
    pseudonym_keys: DerivedKeys,
    /// Encrypt the keys of people in the database.
    key_encryption_keys: DerivedKeys,
    /// Keys of people that could not be decrypted.
    alarms: Counter<u64>,
}

impl KeyVault {
    /// Derives the secrets from the key of the deployment.
    pub(crate) fn new(key: &Key) -> Self {
        Self {
            pseudonym_keys: key.derive("audit pseudonyms"),
            key_encryption_keys: key.derive("audit person keys"),
            alarms: global::meter("tenantry").u64_counter("tenantry.audit.alarms").build(),
        }
    }

    /// Key of the pseudonyms of e-mail addresses. The original one for ever: pseudonyms are compared with
    /// those of older entries.
    pub(crate) fn pseudonym_key(&self) -> Secret {
        self.pseudonym_keys.original()
    }

    fn encrypt_key(&self, id: SubjectId, subject_key: &Secret) -> Vec<u8> {
        self.key_encryption_keys.seal(id.as_bytes(), subject_key)
    }

    fn decrypt_key(&self, id: SubjectId, encrypted: &[u8]) -> Option<Secret> {
        self.key_encryption_keys.open(id.as_bytes(), encrypted)?.try_into().ok()
    }

    /// Decrypts stored keys. One that cannot be decrypted, because its row is damaged, is reported and
    /// concerns only its person.
    pub(crate) fn decrypt_keys(&self, mut stored: Vec<StoredKey>) -> SubjectKeys {
        stored.sort_by_key(|it| it.is_interim);
        let mut keys = SubjectKeys::default();
        for StoredKey { person, sealed, is_interim } in stored {
            if let Some(key) = self.decrypt_key(person, &sealed) {
                keys.insert(person, key);
                continue;
            }
            keys.insert_unreadable(person);
            self.alarms.add(1, &[KeyValue::new("cause", "UNREADABLE_KEY")]);
            let table = if is_interim { "person_interim_key" } else { "person" };
            tracing::error!(
                %person,
                table,
                "KEY OF A PERSON DAMAGED: personal data of this person in the audit log is unreadable; \
                 restore the row of the table audit.{table} from a backup"
            );
        }
        keys
    }

    /// True if a stored key can be decrypted.
    pub(crate) fn can_decrypt(&self, stored: &StoredKey) -> bool {
        self.decrypt_key(stored.person, &stored.sealed).is_some()
    }

    /// Returns the person that the name of an actor or an object belongs to; `None` if it is not personal
    /// data.
    pub(crate) fn subject_of_name(&self, named: &NamedTerm) -> Option<SubjectId> {
        let value = &named.term.value;
        match named.term.kind {
            TermKind::Actor => Uuid::try_parse(value).ok(),
            TermKind::Resource => match value.split_once(':')? {
                (id, "user" | "member") => Uuid::try_parse(id).ok(),
                (_, "invitation") => Some(pseudonym(&self.pseudonym_key(), &named.name)),
                _ => None,
            },
            _ => None,
        }
    }
}
