//! Signed heads of trees: C2SP tlog-checkpoint in a C2SP signed note.

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{Ed25519KeyPair, KeyPair},
};
use chassis::OrgId;
use data_encoding::{BASE64, HEXLOWER};

use crate::merkle::Hash;

/// The signature type Ed25519 of signed notes.
const ED25519: u8 = 1;

/// Signs the heads of every tree of this log.
pub(crate) struct Signer {
    key: Ed25519KeyPair,
    name: String,
    key_id: [u8; 4],
}

impl Signer {
    pub(crate) fn new(key: Ed25519KeyPair, name: &str) -> Self {
        let public = [&[ED25519], key.public_key().as_ref()].concat();
        let digest = digest(&SHA256, &[name.as_bytes(), b"\n", &public].concat());
        let key_id = digest.as_ref()[..4].try_into().expect("SHA-256 is longer than that");
        Self { key, name: name.to_owned(), key_id }
    }

    /// The signed note of one head. Its origin names the log and the organization, so that a head of one
    /// tree is never taken for one of another.
    pub(crate) fn sign(&self, org_id: OrgId, size: u64, root: &Hash) -> String {
        let text = format!("{}/{org_id}\n{size}\n{}\n", self.name, BASE64.encode(root));
        let signature = [&self.key_id, self.key.sign(text.as_bytes()).as_ref()].concat();
        format!("{text}\n\u{2014} {} {}\n", self.name, BASE64.encode(&signature))
    }

    /// The key that verifies the notes.
    pub(crate) fn verifier_key(&self) -> String {
        let public = [&[ED25519], self.key.public_key().as_ref()].concat();
        format!("{}+{}+{}", self.name, HEXLOWER.encode(&self.key_id), BASE64.encode(&public))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_has_the_shape_of_the_specification() {
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let signer = Signer::new(key, "example.com/log");
        let note = signer.sign(OrgId(uuid::Uuid::nil()), 2, &[0; 32]);
        let lines: Vec<_> = note.lines().collect();
        assert_eq!(lines[0], "example.com/log/00000000-0000-0000-0000-000000000000");
        assert_eq!(lines[1], "2");
        assert_eq!(lines[2], "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        assert_eq!(lines[3], "");
        assert!(lines[4].starts_with("\u{2014} example.com/log "));
        assert!(signer.verifier_key().starts_with("example.com/log+"));
    }
}
