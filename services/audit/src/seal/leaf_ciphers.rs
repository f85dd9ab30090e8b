//! Ciphers of the sealed texts of one leaf. The keys are derived once for all texts of a person.

use std::collections::BTreeMap;

use aws_lc_rs::aead::LessSafeKey;
use chassis::key::Secret;
use uuid::Uuid;

use super::{ERASED, SealedText, SubjectId, SubjectKeys, UNREADABLE, cipher, leaf_key, seal_text};

/// Key of one person in one leaf.
struct LeafCipher {
    key: Secret,
    cipher: LessSafeKey,
}

/// Ciphers of one leaf, by person.
pub(super) struct LeafCiphers<'k> {
    subject_keys: &'k SubjectKeys,
    event_id: Uuid,
    derived: BTreeMap<SubjectId, Vec<LeafCipher>>,
}

impl<'k> LeafCiphers<'k> {
    pub(super) fn new(subject_keys: &'k SubjectKeys, event_id: Uuid) -> Self {
        Self { subject_keys, event_id, derived: BTreeMap::new() }
    }

    fn of(&mut self, subject: SubjectId) -> &[LeafCipher] {
        let derive = || {
            let keys = self.subject_keys.of_subject(&subject).iter();
            let keys = keys.map(|it| leaf_key(it, self.event_id));
            keys.map(|key| LeafCipher { key, cipher: cipher(&key) }).collect()
        };
        self.derived.entry(subject).or_insert_with(derive)
    }

    /// Seals a text; `None` if the person has no key.
    pub(super) fn seal(&mut self, subject: SubjectId, text: &str) -> Option<String> {
        Some(seal_text(&self.of(subject).first()?.cipher, subject, text))
    }

    /// Opens a sealed text. Returns it with the key of the leaf that opens it; `None` if there is none.
    pub(super) fn open(&mut self, sealed: &SealedText) -> Option<(Secret, String)> {
        let mut ciphers = self.of(sealed.subject).iter();
        ciphers.find_map(|it| Some((it.key, sealed.open(&it.cipher)?)))
    }

    /// Opens a sealed text; without its key, returns `erased` or `unreadable`.
    pub(super) fn open_or_placeholder(&mut self, sealed: &SealedText) -> String {
        let is_unreadable = self.subject_keys.is_unreadable(&sealed.subject);
        let opened = self.open(sealed).map(|it| it.1);
        opened.unwrap_or_else(|| if is_unreadable { UNREADABLE } else { ERASED }.to_owned())
    }
}
