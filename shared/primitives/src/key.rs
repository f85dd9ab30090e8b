//! Cryptography: the deployment's secret keys, the keys that are derived from them, and the primitives that
//! use them. No key has a default value.

mod file;
mod ring;

use std::{io, path::Path};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hmac, rand,
};

pub use self::{
    file::{add_key, promote_key, remove_key},
    ring::{DerivedKeys, Key, Resealed},
};

/// A 256-bit secret or digest.
pub type Secret = [u8; 32];

/// Id of a key, for operators: the first four bytes of its check value in hexadecimal.
pub fn key_id(check_value: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(check_value.get(..4).unwrap_or(check_value))
}

/// Number of bytes by which [`seal`] makes a text longer: nonce and authentication tag.
pub const SEAL_BYTES: usize = NONCE_LEN + 16;

/// Encrypts bytes with one key (AES-256-GCM with a random nonce, which comes first in the result). They
/// decrypt only with the same associated data. Stored values are sealed with [`DerivedKeys::seal`].
pub fn seal(secret: &Secret, associated_data: &[u8], plain: &[u8]) -> Vec<u8> {
    let key = RandomizedNonceKey::new(&AES_256_GCM, secret).expect("a key has 32 bytes");
    let mut sealed = plain.to_vec();
    let nonce = key.seal_in_place_append_tag(Aad::from(associated_data), &mut sealed);
    let nonce = nonce.expect("a text below 64 GiB can be encrypted");
    [nonce.as_ref().as_slice(), &sealed].concat()
}

/// Decrypts the result of [`seal`]; `None` if it was modified, or the key or the associated data differ.
pub fn open(secret: &Secret, associated_data: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
    let key = RandomizedNonceKey::new(&AES_256_GCM, secret).ok()?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut plain = sealed.to_vec();
    Some(key.open_in_place(nonce, Aad::from(associated_data), &mut plain).ok()?.to_vec())
}

/// HMAC-SHA-256 of several parts. Each part is preceded by its length, so that no two lists have the same
/// input.
pub fn mac(secret: &Secret, parts: &[&[u8]]) -> Secret {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.sign().as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// HMAC-SHA-256 of a body without a length prefix, as in the signatures of webhooks.
pub fn hmac_sha256(secret: &[u8], body: &[u8]) -> Secret {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), body);
    tag.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// SHA-256 digest.
pub fn hash(bytes: &[u8]) -> Secret {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// Compares two byte strings in constant time.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Returns 256 random bits.
pub fn random() -> Secret {
    let mut secret = Secret::default();
    rand::fill(&mut secret).expect("the operating system gives random bytes");
    secret
}

/// Writes a file with mode 0600 atomically: under a temporary name, synced, then renamed.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let part = path.with_extension("part");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&part, path)
}
