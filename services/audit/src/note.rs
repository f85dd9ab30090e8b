//! Checkpoints: signed tree heads in the format of C2SP tlog-checkpoint and signed-note.

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{Ed25519KeyPair, KeyPair},
};
use data_encoding::{BASE64, HEXLOWER};

use crate::{head_journal::TreeHead, merkle::Hash};

/// Signature type of Ed25519 in C2SP signed-note.
const ED25519_TYPE: u8 = 1;
/// Start of a signature line in C2SP signed-note: an em dash and a space.
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// Signer of the checkpoints of every tree of this log.
pub(crate) struct CheckpointSigner {
    /// Newest first. During a key rotation, each key signs.
    keys: Vec<Ed25519KeyPair>,
    log_name: String,
}

impl CheckpointSigner {
    /// Creates the signer of the log `log_name`.
    pub(crate) fn new(keys: Vec<Ed25519KeyPair>, log_name: &str) -> Self {
        Self { keys, log_name: log_name.to_owned() }
    }

    /// Returns the origin line of a tree: `<log>/<tree>`, where the tree is the id of an organization, or
    /// `suite` (the tree of the checkpoints of all other trees). Because the origin is signed, too, a
    /// checkpoint of one tree is not valid for another.
    pub(crate) fn origin(&self, tree: &str) -> String {
        format!("{}/{tree}", self.log_name)
    }

    /// Signs a tree head. Returns the checkpoint, a signed note.
    pub(crate) fn sign(&self, tree: &str, size: u64, root: &Hash) -> String {
        let text = format!("{}\n{size}\n{}\n", self.origin(tree), BASE64.encode(root));
        let mut note = format!("{text}\n");
        for key in &self.keys {
            note += &self.signature_line(key, &text);
            note.push('\n');
        }
        note
    }

    /// Returns the verifier keys (`<name>+<key id>+<key>`), newest first.
    pub(crate) fn verifier_keys(&self) -> Vec<String> {
        let verifier_key = |key: &Ed25519KeyPair| {
            let id = HEXLOWER.encode(&self.key_id(key));
            format!("{}+{id}+{}", self.log_name, BASE64.encode(&typed_public_key(key)))
        };
        self.keys.iter().map(verifier_key).collect()
    }

    /// True if this log signed the note with one of its current keys.
    pub(crate) fn has_signed(&self, note: &str) -> bool {
        let Some(NoteParts { text, signatures }) = NoteParts::split(note) else { return false };
        self.keys.iter().any(|key| {
            // Ed25519 signatures are deterministic.
            let expected = self.signature_line(key, text);
            signatures.lines().any(|line| line == expected)
        })
    }

    fn signature_line(&self, key: &Ed25519KeyPair, text: &str) -> String {
        let signature = [&self.key_id(key), key.sign(text.as_bytes()).as_ref()].concat();
        format!("{SIGNATURE_PREFIX}{} {}", self.log_name, BASE64.encode(&signature))
    }

    fn key_id(&self, key: &Ed25519KeyPair) -> [u8; 4] {
        key_id(&self.log_name, &typed_public_key(key))
    }
}

/// Returns the signature type and the public key.
fn typed_public_key(key: &Ed25519KeyPair) -> Vec<u8> {
    [&[ED25519_TYPE], key.public_key().as_ref()].concat()
}

/// Computes the key id of C2SP signed-note.
fn key_id(name: &str, typed_public_key: &[u8]) -> [u8; 4] {
    let digest = digest(&SHA256, &[name.as_bytes(), b"\n", typed_public_key].concat());
    digest.as_ref()[..4].try_into().expect("SHA-256 has 32 bytes")
}

/// Parts of a signed note.
struct NoteParts<'n> {
    /// The signed text, with its last line feed.
    text: &'n str,
    /// The signature lines.
    signatures: &'n str,
}

impl<'n> NoteParts<'n> {
    fn split(note: &'n str) -> Option<Self> {
        let separator = note.rfind("\n\n")?;
        Some(Self { text: &note[..=separator], signatures: &note[separator + 2..] })
    }
}

/// Returns the signed text of a note, with its last line feed.
pub(crate) fn checkpoint_text(note: &str) -> Option<&str> {
    Some(NoteParts::split(note)?.text)
}

/// Returns the tree head in a checkpoint, without verifying the signature.
pub(crate) fn unverified_head(note: &str) -> Option<TreeHead> {
    let mut lines = note.lines().skip(1);
    let size = lines.next()?.parse().ok()?;
    let root = BASE64.decode(lines.next()?.as_bytes()).ok()?.try_into().ok()?;
    Some(TreeHead { size, root })
}

#[cfg(test)]
mod tests {
    use signed_note::{Note, StandardVerifier, Verifier, VerifierList};
    use verifier::{Pins, VerifyError};

    use super::*;

    fn key_pair(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn pins(signer: &CheckpointSigner) -> Pins {
        let parse = |it: &String| verifier::note::VerifierKey::parse(it).unwrap();
        Pins { keys: signer.verifier_keys().iter().map(parse).collect(), ..Pins::default() }
    }

    /// our verifier and an independent implementation verify our checkpoints.
    #[test]
    fn a_checkpoint_verifies_here_and_in_an_independent_implementation() {
        let signer = CheckpointSigner::new(vec![key_pair(7)], "example.com/log");
        let note = signer.sign("org", 2, &[9; 32]);
        let checkpoint = verifier::note::open(&note, &pins(&signer)).unwrap();
        assert_eq!(checkpoint.origin, "example.com/log/org");
        assert_eq!(checkpoint.size, 2);
        assert_eq!(checkpoint.root, [9; 32]);

        let independent = StandardVerifier::new(&signer.verifier_keys()[0]).unwrap();
        let list = VerifierList::new(vec![Box::new(independent) as Box<dyn Verifier>]);
        let (verified, unknown) = Note::from_bytes(note.as_bytes()).unwrap().verify(&list).unwrap();
        assert_eq!(verified.len(), 1);
        assert_eq!(unknown.len(), 0);
        let forged = note.replace("\n2\n", "\n3\n");
        assert!(Note::from_bytes(forged.as_bytes()).unwrap().verify(&list).is_err());
    }

    /// During a key rotation, checkpoints verify with the old key and with the new one.
    #[test]
    fn both_keys_sign_during_a_rotation() {
        let both = CheckpointSigner::new(vec![key_pair(2), key_pair(1)], "example.com/log");
        let note = both.sign("org", 1, &[1; 32]);
        for seed in [1, 2] {
            let one = CheckpointSigner::new(vec![key_pair(seed)], "example.com/log");
            assert!(verifier::note::open(&note, &pins(&one)).is_ok());
        }
        let other = CheckpointSigner::new(vec![key_pair(3)], "example.com/log");
        let refused = verifier::note::open(&note, &pins(&other));
        assert_eq!(refused, Err(VerifyError::UnknownKey));
        assert!(both.has_signed(&note) && !other.has_signed(&note));
    }
}
