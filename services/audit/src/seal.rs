//! Sealing of personal fields: before a leaf is hashed, each personal text is encrypted under a key of its
//! person. Destroying that key erases the text while every proof stays valid. All other bytes stay as
//! received.

mod leaf_ciphers;
mod personal_fields;
mod rewrite;
mod subject_keys;
pub(crate) mod wire;

use std::collections::BTreeSet;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use chassis::key::{Secret, mac};
use data_encoding::BASE64URL_NOPAD;
use uuid::Uuid;

use self::{
    leaf_ciphers::LeafCiphers,
    personal_fields::TextSubject,
    rewrite::{PersonalText, rewrite},
};
pub(crate) use self::{
    personal_fields::PersonalFields,
    subject_keys::{LeafKeys, SubjectKeys},
};

/// Prefix of a sealed text.
const SEALED_PREFIX: &str = "sealed:";
/// Replacement of a text whose key is destroyed.
pub(crate) const ERASED: &str = "erased";
/// Replacement of a text whose stored key cannot be decrypted until an operator has repaired its row.
pub(crate) const UNREADABLE: &str = "unreadable";

/// Length in bytes of a subject id, which precedes the ciphertext.
const SUBJECT_ID_LEN: usize = 16;
/// Length in bytes of the authentication tag of AES-256-GCM-SIV.
const TAG_LEN: usize = 16;

/// A person in the log: the id of an account, or the pseudonym of an e-mail address.
pub(crate) type SubjectId = Uuid;

/// Derives the key that seals the texts of one person in one leaf.
pub(crate) fn leaf_key(subject_key: &Secret, event_id: Uuid) -> Secret {
    mac(subject_key, &[b"leaf", event_id.as_bytes()])
}

/// Returns the pseudonym of an e-mail address: a keyed hash, so that the address cannot be guessed from it.
pub(crate) fn pseudonym(pseudonym_key: &Secret, address: &str) -> SubjectId {
    let parsed = chassis::email::parse(address).map(|it| it.canonical);
    let canonical = parsed.unwrap_or_else(|| address.trim().to_ascii_lowercase());
    pseudonym_of_canonical(pseudonym_key, &canonical)
}

fn pseudonym_of_canonical(pseudonym_key: &Secret, canonical: &str) -> SubjectId {
    let hash = mac(pseudonym_key, &[b"address", canonical.as_bytes()]);
    Uuid::from_slice(&hash[..SUBJECT_ID_LEN]).expect("a MAC has 32 bytes")
}

/// People whose personal data an envelope has.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    /// Everybody.
    pub(crate) all: BTreeSet<SubjectId>,
    /// Accounts with the addresses that occurred beside them.
    pub(crate) addresses: BTreeSet<AccountAddress>,
}

/// An account and one of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AccountAddress {
    pub(crate) account: SubjectId,
    /// Pseudonym of the address.
    pub(crate) address: SubjectId,
}

impl PersonalText<'_> {
    /// True if the text is about a person, and therefore sealed in a leaf. A text about a service or an
    /// object may happen to look sealed; it is shown unchanged.
    fn is_personal(&self) -> bool {
        match self.subject {
            TextSubject::Account(id) => id.is_empty() || Uuid::try_parse(id).is_ok(),
            TextSubject::Address(_) => true,
            TextSubject::Nobody => false,
        }
    }

    /// Returns the person that the text is about; `None` for services and objects.
    fn subject_id(&self, pseudonym_key: &Secret) -> Option<SubjectId> {
        match self.subject {
            _ if self.text.is_empty() => None,
            TextSubject::Account("") | TextSubject::Address("") => {
                Some(pseudonym(pseudonym_key, self.text))
            }
            TextSubject::Account(id) => Uuid::try_parse(id).ok(),
            TextSubject::Address(address) => Some(pseudonym(pseudonym_key, address)),
            TextSubject::Nobody => None,
        }
    }
}

/// Finds the people whose personal data an envelope has. `None` if the bytes are not a protobuf message.
pub(crate) fn find_subjects(
    fields: &PersonalFields,
    pseudonym_key: &Secret,
    envelope: &[u8],
) -> Option<Subjects> {
    let mut subjects = Subjects::default();
    rewrite(fields, envelope, &mut |personal| {
        if let Some(subject) = personal.subject_id(pseudonym_key) {
            subjects.all.insert(subject);
            let is_account = matches!(personal.subject, TextSubject::Account(id) if !id.is_empty());
            let may_be_address = is_account && personal.text.contains('@');
            let parsed = may_be_address.then(|| chassis::email::parse(personal.text)).flatten();
            if let Some(parsed) = parsed {
                let address = pseudonym_of_canonical(pseudonym_key, &parsed.canonical);
                subjects.all.insert(address);
                subjects.addresses.insert(AccountAddress { account: subject, address });
            }
        }
        None
    })?;
    Some(subjects)
}

/// True if the leaf of an envelope of this length may be longer than `max`, both in bytes. Sealing makes a
/// field at most 24 times as long: a text of one byte, three with tag and length, becomes 53 with them.
pub(crate) fn may_exceed(envelope_len: usize, max: usize) -> bool {
    envelope_len > max / 24
}

/// Returns an upper bound of the length of the leaf of an envelope, in bytes.
pub(crate) fn sealed_len_max(fields: &PersonalFields, envelope: &[u8]) -> usize {
    let sealed = rewrite(fields, envelope, &mut |personal| {
        let sealed_bytes = SUBJECT_ID_LEN + personal.text.len() + TAG_LEN;
        let len = SEALED_PREFIX.len() + BASE64URL_NOPAD.encode_len(sealed_bytes);
        (personal.is_personal() && !personal.text.is_empty()).then(|| "x".repeat(len))
    });
    sealed.map_or(envelope.len(), |it| it.len())
}

/// Seals an envelope: each personal text is encrypted under the key of its person, or replaced by `erased` if
/// there is no key. `None` if the bytes are not a protobuf message.
pub(crate) fn seal_envelope(
    fields: &PersonalFields,
    pseudonym_key: &Secret,
    event_id: Uuid,
    envelope: &[u8],
    subject_keys: &SubjectKeys,
) -> Option<Vec<u8>> {
    let mut ciphers = LeafCiphers::new(subject_keys, event_id);
    rewrite(fields, envelope, &mut |personal| {
        let subject = personal.subject_id(pseudonym_key)?;
        Some(ciphers.seal(subject, personal.text).unwrap_or_else(|| ERASED.to_owned()))
    })
}

/// Opens a leaf: each sealed text is decrypted, or replaced by `erased` if its person has no key, or by
/// `unreadable` if the stored key is damaged. `None` if the bytes are not a protobuf message.
pub(crate) fn open_leaf(
    fields: &PersonalFields,
    event_id: Uuid,
    leaf: &[u8],
    subject_keys: &SubjectKeys,
) -> Option<Vec<u8>> {
    let mut ciphers = LeafCiphers::new(subject_keys, event_id);
    rewrite(fields, leaf, &mut |personal| {
        let sealed = SealedText::decode(personal.text).filter(|_| personal.is_personal())?;
        Some(ciphers.open_or_placeholder(&sealed))
    })
}

/// Returns the people for whom a leaf has sealed texts.
pub(crate) fn sealed_subjects(fields: &PersonalFields, leaf: &[u8]) -> BTreeSet<SubjectId> {
    let mut subjects = BTreeSet::new();
    rewrite(fields, leaf, &mut |personal| {
        let sealed = SealedText::decode(personal.text).filter(|_| personal.is_personal());
        subjects.extend(sealed.map(|it| it.subject));
        None
    });
    subjects
}

/// AES-256-GCM-SIV with a constant nonce. A key is used for one person in one leaf only, so all that the
/// nonce would hide is that two texts there are equal.
fn cipher(key: &Secret) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key).expect("a key has 32 bytes"))
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

/// Returns `sealed:` and the base64 of subject id, ciphertext and tag.
fn seal_text(cipher: &LessSafeKey, subject: SubjectId, text: &str) -> String {
    let mut buffer = text.as_bytes().to_vec();
    let associated_data = Aad::from(subject.into_bytes());
    cipher
        .seal_in_place_append_tag(nonce(), associated_data, &mut buffer)
        .expect("a short text can be encrypted");
    let encoded = BASE64URL_NOPAD.encode(&[subject.as_bytes(), &*buffer].concat());
    format!("{SEALED_PREFIX}{encoded}")
}

/// The result of [`seal_text`], decoded.
struct SealedText {
    subject: SubjectId,
    /// Ciphertext and tag.
    bytes: Vec<u8>,
}

impl SealedText {
    /// Decodes a text; `None` if it is not sealed.
    fn decode(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(SEALED_PREFIX)?;
        let mut decoded = BASE64URL_NOPAD.decode(encoded.as_bytes()).ok()?;
        let subject = Uuid::from_slice(decoded.get(..SUBJECT_ID_LEN)?).ok()?;
        Some(Self { subject, bytes: decoded.split_off(SUBJECT_ID_LEN) })
    }

    /// Decrypts the text; `None` if the key is another one.
    fn open(&self, cipher: &LessSafeKey) -> Option<String> {
        let mut buffer = self.bytes.clone();
        let associated_data = Aad::from(self.subject.into_bytes());
        let plaintext = cipher.open_in_place(nonce(), associated_data, &mut buffer).ok()?;
        String::from_utf8(plaintext.to_vec()).ok()
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
