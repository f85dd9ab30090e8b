//! Keys of the people of some entries, and the keys of one leaf that are derived from them.

use std::collections::{BTreeMap, BTreeSet};

use chassis::key::Secret;
use uuid::Uuid;

use super::{
    ERASED, PersonalFields, SubjectId, UNREADABLE, leaf_key, open_text, rewrite::rewrite,
    subject_of_sealed,
};

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

    /// Returns the key that seals new entries of a person.
    pub(super) fn sealing_key(&self, subject: SubjectId) -> Option<&Secret> {
        self.keys.get(&subject)?.first()
    }

    /// Opens a sealed text of a leaf; without its key, returns `erased` or `unreadable`.
    pub(super) fn open(&self, event_id: Uuid, subject: SubjectId, text: &str) -> String {
        let opened = self.find_leaf_key(event_id, subject, text).map(|it| it.1);
        opened.unwrap_or_else(|| {
            if self.is_unreadable(&subject) { UNREADABLE } else { ERASED }.to_owned()
        })
    }

    /// Returns the keys that open the sealed texts of one leaf.
    pub(crate) fn of_leaf(&self, fields: &PersonalFields, event_id: Uuid, leaf: &[u8]) -> LeafKeys {
        let mut leaf_keys = LeafKeys::new();
        rewrite(fields, leaf, &mut |personal| {
            let subject = subject_of_sealed(personal.text).filter(|_| personal.is_personal())?;
            let found = self.find_leaf_key(event_id, subject, personal.text);
            leaf_keys.extend(found.map(|(key, _)| (subject, key)));
            None
        });
        leaf_keys
    }

    /// Returns the key of a leaf that opens a sealed text, and the opened text.
    fn find_leaf_key(
        &self,
        event_id: Uuid,
        subject: SubjectId,
        text: &str,
    ) -> Option<(Secret, String)> {
        self.keys.get(&subject)?.iter().find_map(|key| {
            let key = leaf_key(key, event_id);
            Some((key, open_text(&key, subject, text)?))
        })
    }
}
