//! Keys of people: personal fields of leaves are sealed under them, and forgotten with them.

pub(crate) mod erase;
pub(crate) mod store;

use chassis::key::{Key, Secret};
use uuid::Uuid;

use crate::{
    facts::{Fact, Kind},
    seal::{PersonId, pseudonym},
};

/// The secrets of the deployment that guard the keys of people.
pub(crate) struct Vault {
    pseudonyms: Secret,
    keys: Secret,
}

impl Vault {
    pub(crate) fn new(key: &Key) -> Self {
        Self { pseudonyms: key.derive("audit pseudonyms"), keys: key.derive("audit person keys") }
    }

    /// The key of keyed hashes of addresses.
    pub(crate) fn pseudonyms(&self) -> &Secret {
        &self.pseudonyms
    }

    fn seal(&self, id: PersonId, secret: &Secret) -> Vec<u8> {
        chassis::key::seal(&self.keys, id.as_bytes(), secret)
    }

    fn open(&self, id: PersonId, sealed: &[u8]) -> Option<Secret> {
        chassis::key::open(&self.keys, id.as_bytes(), sealed)?.try_into().ok()
    }

    /// Whose personal data the name of an actor or an object is.
    pub(crate) fn named(&self, fact: &Fact, name: &str) -> Option<PersonId> {
        match fact {
            (Kind::Actor, id) => Uuid::try_parse(id).ok(),
            (Kind::Resource, object) => match object.split_once(':')? {
                (id, "user" | "member") => Uuid::try_parse(id).ok(),
                (_, "invitation") => Some(pseudonym(&self.pseudonyms, name)),
                _ => None,
            },
            _ => None,
        }
    }
}
