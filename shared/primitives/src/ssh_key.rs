//! Ed25519 key pairs in the formats of OpenSSH (RFC 4253, RFC 8709, and PROTOCOL.key of OpenSSH).

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::{BASE64, BASE64_NOPAD};

use crate::key;

const ALGORITHM: &[u8] = b"ssh-ed25519";

/// Comment of a key, in both of its halves.
const COMMENT: &str = "tenantry";

/// A key pair.
pub struct SshKey {
    /// Private key, as a file of OpenSSH without a passphrase.
    pub private_key: String,
    /// Public key, as a line of `authorized_keys`.
    pub public_key: String,
}

impl SshKey {
    /// Makes a random key pair.
    pub fn generate() -> Self {
        let seed = key::random();
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed has 32 bytes");
        let public = pair.public_key().as_ref();
        let blob = [string(ALGORITHM), string(public)].concat();
        let random = key::random();
        let check = &random[..4];
        let mut private = [
            check,
            check,
            &blob,
            &string(&[seed.as_slice(), public].concat()),
            &string(COMMENT.as_bytes()),
        ]
        .concat();
        // The cipher `none` has blocks of 8 bytes.
        private.extend((1..=8).take((8 - private.len() % 8) % 8));
        let file = [
            b"openssh-key-v1\0".as_slice(),
            &string(b"none"),
            &string(b"none"),
            &string(b""),
            &1_u32.to_be_bytes(),
            &string(&blob),
            &string(&private),
        ]
        .concat();
        Self {
            private_key: pem(&file),
            public_key: format!("ssh-ed25519 {} {COMMENT}", BASE64.encode(&blob)),
        }
    }
}

/// Fingerprint of a public key `<type> <base64>`, as `ssh-keygen -l` prints it; empty if the key is
/// malformed.
pub fn fingerprint(public_key: &str) -> String {
    let blob = public_key.split(' ').nth(1).map(|it| BASE64.decode(it.as_bytes()));
    match blob {
        Some(Ok(blob)) => format!("SHA256:{}", BASE64_NOPAD.encode(&key::hash(&blob))),
        _ => String::new(),
    }
}

/// The type `string` of RFC 4251: its length, then its bytes.
fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a part of a key is short");
    [length.to_be_bytes().as_slice(), bytes].concat()
}

fn pem(bytes: &[u8]) -> String {
    let text = BASE64.encode(bytes);
    let lines = text.as_bytes().chunks(70).map(|it| String::from_utf8_lossy(it) + "\n");
    let body: String = lines.collect();
    format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}-----END OPENSSH PRIVATE KEY-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_random_and_have_fingerprints() {
        let (one, other) = (SshKey::generate(), SshKey::generate());
        assert_ne!(one.private_key, other.private_key);
        assert!(one.public_key.starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"));
        assert_eq!(fingerprint(&one.public_key).len(), "SHA256:".len() + 43);
        assert_ne!(fingerprint(&one.public_key), fingerprint(&other.public_key));
        assert_eq!(fingerprint("ssh-ed25519 ?"), "");
    }
}
