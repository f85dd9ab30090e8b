//! Decryption of sealed fields: names and addresses of people, sealed under a key of the person and the leaf.
//! Once a person is erased, the key is destroyed and the field reads `erased`.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

/// Decryption keys of one leaf, by the pseudonym of the person.
pub type Keys = BTreeMap<String, Vec<u8>>;

/// Length in bytes of the pseudonym (a UUID) before the ciphertext.
const PSEUDONYM_LEN: usize = 16;

/// Content of a text field of a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldText {
    /// The text was not sealed, or was decrypted.
    Plain(String),
    /// The key was destroyed.
    Erased,
    /// There is a key, but it does not decrypt the text.
    WrongKey,
}

/// Decrypts a text field of a leaf, if it is sealed.
pub fn open(text: &str, keys: &Keys) -> FieldText {
    let Some(encoded) = text.strip_prefix("sealed:") else {
        return if text == "erased" {
            FieldText::Erased
        } else {
            FieldText::Plain(text.to_owned())
        };
    };
    let decoded = BASE64URL_NOPAD.decode(encoded.as_bytes()).ok();
    let parts = decoded.as_deref().and_then(|it| it.split_at_checked(PSEUDONYM_LEN));
    let Some((pseudonym, ciphertext)) = parts else {
        return FieldText::Plain(text.to_owned());
    };
    let Some(key) = keys.get(&format_uuid(pseudonym)) else { return FieldText::Erased };
    let Ok(key) = UnboundKey::new(&AES_256_GCM_SIV, key) else { return FieldText::WrongKey };
    // A key is used for one person in one leaf, so the nonce is constant.
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let mut buffer = ciphertext.to_vec();
    let opened = LessSafeKey::new(key).open_in_place(nonce, Aad::from(pseudonym), &mut buffer);
    match opened.map(|plaintext| String::from_utf8(plaintext.to_vec())) {
        Ok(Ok(text)) => FieldText::Plain(text),
        _ => FieldText::WrongKey,
    }
}

/// Formats a UUID as `8-4-4-4-12` hexadecimal digits.
fn format_uuid(id: &[u8]) -> String {
    let hex = HEXLOWER.encode(id);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
