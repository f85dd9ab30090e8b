//! Personal fields of a leaf: sealed under a key of their person before the leaf is hashed, so that a person
//! can be forgotten while every proof stays good. Everything else stays byte for byte as it was received.

pub(crate) mod plan;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use chassis::key::{Secret, mac};
use data_encoding::BASE64URL_NOPAD;
use uuid::Uuid;

pub(crate) use self::plan::Plans;
use self::plan::Subject;

/// What a sealed text begins with.
const SEALED: &str = "sealed:";
/// What stands for a text whose key is destroyed.
pub(crate) const ERASED: &str = "erased";

/// A person, as far as the log knows one: an account, or a keyed hash of an address.
pub(crate) type PersonId = Uuid;

/// Opens the personal fields of one leaf: made from the key of a person and the id of the event.
pub(crate) fn leaf_key(person: &Secret, event_id: Uuid) -> Secret {
    mac(person, &[b"leaf", event_id.as_bytes()])
}

/// A keyed hash of an address: nobody without the key can tell which address it is.
pub(crate) fn pseudonym(key: &Secret, address: &str) -> PersonId {
    let typed = chassis::email::parse(address).map(|it| it.canonical);
    let canonical = typed.unwrap_or_else(|| address.trim().to_ascii_lowercase());
    let hash = mac(key, &[b"address", canonical.as_bytes()]);
    Uuid::from_slice(&hash[..16]).expect("a hash is longer than that")
}

/// Whose personal data a leaf holds.
#[derive(Debug, Default)]
pub(crate) struct People {
    /// Everybody.
    pub(crate) all: BTreeSet<PersonId>,
    /// Accounts and the addresses that were seen beside them.
    pub(crate) addresses: BTreeSet<(PersonId, PersonId)>,
}

/// What stands in a text field that may be personal.
pub(crate) struct Field<'l> {
    pub(crate) subject: Subject<'l>,
    pub(crate) text: &'l str,
}

impl Field<'_> {
    /// Whether the text is about a person, and so was sealed if it is part of a leaf. A text about a service
    /// or an object may look sealed, and is shown as it is.
    fn is_personal(&self) -> bool {
        match self.subject {
            Subject::Account(id) => id.is_empty() || Uuid::try_parse(id).is_ok(),
            Subject::Address(_) => true,
            Subject::Nobody => false,
        }
    }

    /// Whose the text is; nobody's, if it is about a service or an object.
    fn person(&self, key: &Secret) -> Option<PersonId> {
        match self.subject {
            _ if self.text.is_empty() => None,
            Subject::Account("") | Subject::Address("") => Some(pseudonym(key, self.text)),
            Subject::Account(id) => Uuid::try_parse(id).ok(),
            Subject::Address(address) => Some(pseudonym(key, address)),
            Subject::Nobody => None,
        }
    }
}

/// Whose personal data an envelope holds. `None` if it is no message.
pub(crate) fn people(plans: &Plans, key: &Secret, envelope: &[u8]) -> Option<People> {
    let mut people = People::default();
    wire::rewrite(plans, envelope, &mut |field| {
        if let Some(person) = field.person(key) {
            people.all.insert(person);
            let account = matches!(field.subject, Subject::Account(id) if !id.is_empty());
            if account && chassis::email::parse(field.text).is_some() {
                let address = pseudonym(key, field.text);
                people.all.insert(address);
                people.addresses.insert((person, address));
            }
        }
        None
    })?;
    Some(people)
}

/// How long the leaf of an envelope is at most.
pub(crate) fn sealed_len(plans: &Plans, envelope: &[u8]) -> usize {
    let sealed = wire::rewrite(plans, envelope, &mut |field| {
        // Its person and the tag of the cipher, 16 bytes each, in base64.
        let len = SEALED.len() + BASE64URL_NOPAD.encode_len(field.text.len() + 32);
        (field.is_personal() && !field.text.is_empty()).then(|| "x".repeat(len))
    });
    sealed.map_or(envelope.len(), |it| it.len())
}

/// The leaf of an envelope: every personal field sealed under the key of its person; `erased` where there is
/// none any more.
pub(crate) fn seal(
    plans: &Plans,
    key: &Secret,
    event_id: Uuid,
    envelope: &[u8],
    persons: &BTreeMap<PersonId, Secret>,
) -> Option<Vec<u8>> {
    wire::rewrite(plans, envelope, &mut |field| {
        let person = field.person(key)?;
        let Some(secret) = persons.get(&person) else { return Some(ERASED.to_owned()) };
        Some(seal_text(&leaf_key(secret, event_id), person, field.text))
    })
}

/// An envelope with the fields of a leaf opened, for those who may read it.
pub(crate) fn open(
    plans: &Plans,
    leaf: &[u8],
    key: impl Fn(PersonId) -> Option<Secret>,
) -> Option<Vec<u8>> {
    wire::rewrite(plans, leaf, &mut |field| {
        let person = sealed_of(field.text).filter(|_| field.is_personal())?;
        let opened = key(person).and_then(|it| open_text(&it, person, field.text));
        Some(opened.unwrap_or_else(|| ERASED.to_owned()))
    })
}

/// Whose sealed fields a leaf holds.
pub(crate) fn sealed_for(plans: &Plans, leaf: &[u8]) -> BTreeSet<PersonId> {
    let mut people = BTreeSet::new();
    wire::rewrite(plans, leaf, &mut |field| {
        people.extend(sealed_of(field.text).filter(|_| field.is_personal()));
        None
    });
    people
}

/// AES-256-GCM-SIV with one nonce: the key is good for one person in one leaf only, and the same text there
/// may look the same.
fn cipher(key: &Secret) -> (LessSafeKey, Nonce) {
    let key = UnboundKey::new(&AES_256_GCM_SIV, key).expect("a key has 32 bytes");
    (LessSafeKey::new(key), Nonce::assume_unique_for_key([0; NONCE_LEN]))
}

fn seal_text(key: &Secret, person: PersonId, text: &str) -> String {
    let (cipher, nonce) = cipher(key);
    let mut sealed = text.as_bytes().to_vec();
    let about = Aad::from(person.into_bytes());
    cipher.seal_in_place_append_tag(nonce, about, &mut sealed).expect("a short text can be sealed");
    format!("{SEALED}{}", BASE64URL_NOPAD.encode(&[person.as_bytes(), &*sealed].concat()))
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(text.strip_prefix(SEALED)?.as_bytes()).ok()
}

fn sealed_of(text: &str) -> Option<PersonId> {
    Uuid::from_slice(bytes_of(text)?.get(..16)?).ok()
}

fn open_text(key: &Secret, person: PersonId, text: &str) -> Option<String> {
    let mut sealed = bytes_of(text)?.split_off(16);
    let (cipher, nonce) = cipher(key);
    let opened = cipher.open_in_place(nonce, Aad::from(person.into_bytes()), &mut sealed).ok()?;
    String::from_utf8(opened.to_vec()).ok()
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
