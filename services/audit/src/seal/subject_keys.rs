//! Keys of the people of some entries, and the keys of one leaf that are derived from them.

use std::collections::{BTreeMap, BTreeSet};

use chassis::key::Secret;
use uuid::Uuid;

use super::{PersonalFields, SealedText, SubjectId, leaf_ciphers::LeafCiphers, rewrite::rewrite};

/// Keys of people, from which the keys of their leaves are derived. An erased person has none. A person whose
/// key was damaged has interim keys, too, under which the entries of that time are sealed.
#[derive(Default)]
pub(crate) struct SubjectKeys {
    keys: BTreeMap<SubjectId, Vec<Secret>>,
    unreadable: BTreeSet<SubjectId>,
}

/// Keys of the sealed texts of one leaf, by person.
pub(crate) type LeafKeys = BTreeMap<SubjectId, Secret>;

impl SubjectKeys {
    /// Adds a key of a person. The first one seals new entries.
    pub(crate) fn insert(&mut self, subject: SubjectId, key: Secret) {
        self.keys.entry(subject).or_default().push(key);
    }

    /// Records that a stored key of a person cannot be decrypted.
    pub(crate) fn insert_unreadable(&mut self, subject: SubjectId) {
        self.unreadable.insert(subject);
    }

    /// Adds the keys of other people.
    pub(crate) fn extend(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.unreadable.extend(other.unreadable);
    }

    /// True if a person has a key that seals new entries.
    pub(crate) fn contains(&self, subject: &SubjectId) -> bool {
        self.keys.contains_key(subject)
    }

    /// True if a stored key of a person cannot be decrypted.
    pub(crate) fn is_unreadable(&self, subject: &SubjectId) -> bool {
        self.unreadable.contains(subject)
    }

    /// Returns the keys of a person. The first one seals new entries.
    pub(super) fn of_subject(&self, subject: &SubjectId) -> &[Secret] {
        self.keys.get(subject).map_or(&[], Vec::as_slice)
    }

    /// Returns the keys that open the sealed texts of one leaf.
    pub(crate) fn of_leaf(&self, fields: &PersonalFields, event_id: Uuid, leaf: &[u8]) -> LeafKeys {
        let mut ciphers = LeafCiphers::new(self, event_id);
        let mut leaf_keys = LeafKeys::new();
        rewrite(fields, leaf, &mut |personal| {
            let sealed = SealedText::decode(personal.text).filter(|_| personal.is_personal())?;
            leaf_keys.extend(ciphers.open(&sealed).map(|(key, _)| (sealed.subject, key)));
            None
        });
        leaf_keys
    }
}
