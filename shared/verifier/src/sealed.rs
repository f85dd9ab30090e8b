//! Sealed fields: names and addresses of people, which open with a key for this leaf, as long as the person
//! was not erased.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

/// Keys of one leaf, by the pseudonym of the person.
pub type Keys = BTreeMap<String, Vec<u8>>;

/// What is shown for a text of a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It was never sealed, or opens.
    Plain(String),
    /// Its key was destroyed.
    Erased,
    /// There is a key, and it does not open the text.
    WrongKey,
}

/// Opens a text of a leaf.
pub fn open(text: &str, keys: &Keys) -> Shown {
    let Some(bytes) = text.strip_prefix("sealed:") else {
        return if text == "erased" { Shown::Erased } else { Shown::Plain(text.to_owned()) };
    };
    let decoded = BASE64URL_NOPAD.decode(bytes.as_bytes()).ok();
    let Some((person, sealed)) = decoded.as_deref().and_then(|it| it.split_at_checked(16)) else {
        return Shown::Plain(text.to_owned());
    };
    let Some(key) = keys.get(&hyphenated(person)) else { return Shown::Erased };
    let Ok(key) = UnboundKey::new(&AES_256_GCM_SIV, key) else { return Shown::WrongKey };
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let mut sealed = sealed.to_vec();
    let opened = LessSafeKey::new(key).open_in_place(nonce, Aad::from(person), &mut sealed);
    match opened.map(|it| String::from_utf8(it.to_vec())) {
        Ok(Ok(text)) => Shown::Plain(text),
        _ => Shown::WrongKey,
    }
}

/// `8-4-4-4-12` hexadecimal digits.
fn hyphenated(id: &[u8]) -> String {
    let hex = HEXLOWER.encode(id);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
