//! Signed heads of trees: C2SP tlog-checkpoint in a C2SP signed note.

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use data_encoding::{BASE64, HEXLOWER};

use crate::merkle::Hash;

/// The signature type Ed25519 of signed notes.
const ED25519_NOTE: u8 = 1;
/// The signature type of cosignatures with a time (C2SP tlog-cosignature).
const COSIGNATURE: u8 = 4;

/// Signs the heads of every tree of this log.
pub(crate) struct Signer {
    /// The newest first. While a key is changed, each signs.
    keys: Vec<Ed25519KeyPair>,
    name: String,
}

impl Signer {
    /// Signs as the log `name`.
    pub(crate) fn new(keys: Vec<Ed25519KeyPair>, name: &str) -> Self {
        Self { keys, name: name.to_owned() }
    }

    /// The origin of one tree: `organization` is its id, or `suite`. It names the log and the tree, so that a
    /// head of one tree is never taken for one of another.
    pub(crate) fn origin(&self, tree: &str) -> String {
        format!("{}/{tree}", self.name)
    }

    /// The signed note of one head.
    pub(crate) fn sign(&self, tree: &str, size: u64, root: &Hash) -> String {
        let text = format!("{}\n{size}\n{}\n", self.origin(tree), BASE64.encode(root));
        let mut note = format!("{text}\n");
        for key in &self.keys {
            let signature = [&self.key_id(key), key.sign(text.as_bytes()).as_ref()].concat();
            note += &format!("\u{2014} {} {}\n", self.name, BASE64.encode(&signature));
        }
        note
    }

    /// The keys that verify the notes, the newest first.
    pub(crate) fn verifier_keys(&self) -> Vec<String> {
        let text = |key: &Ed25519KeyPair| {
            let id = HEXLOWER.encode(&self.key_id(key));
            format!("{}+{id}+{}", self.name, BASE64.encode(&public(key)))
        };
        self.keys.iter().map(text).collect()
    }

    /// Whether this log signed a note: some line of it is what one of the keys signs.
    pub(crate) fn signed(&self, note: &str) -> bool {
        let Some((text, lines)) = parts(note) else { return false };
        self.keys.iter().any(|key| {
            let signature = [&self.key_id(key), key.sign(text.as_bytes()).as_ref()].concat();
            let line = format!("\u{2014} {} {}", self.name, BASE64.encode(&signature));
            lines.lines().any(|it| it == line)
        })
    }

    fn key_id(&self, key: &Ed25519KeyPair) -> [u8; 4] {
        key_id(&self.name, &public(key))
    }
}

fn public(key: &Ed25519KeyPair) -> Vec<u8> {
    [&[ED25519_NOTE], key.public_key().as_ref()].concat()
}

fn key_id(name: &str, key: &[u8]) -> [u8; 4] {
    let digest = digest(&SHA256, &[name.as_bytes(), b"\n", key].concat());
    digest.as_ref()[..4].try_into().expect("SHA-256 is longer than that")
}

/// The text of a note, with its last line end, and its signature lines.
fn parts(note: &str) -> Option<(&str, &str)> {
    let end = note.rfind("\n\n")?;
    Some((&note[..=end], &note[end + 2..]))
}

/// Somebody else who watches the log, and signs its heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Witness {
    pub(crate) name: String,
    /// Type and public key.
    key: Vec<u8>,
    /// As it was configured.
    pub(crate) text: String,
}

impl Witness {
    /// Reads `<name>+<key id>+<key>` of a key of type 4.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().splitn(3, '+');
        let (name, id, key) = (parts.next()?, parts.next()?, parts.next()?);
        let key = BASE64.decode(key.as_bytes()).ok()?;
        let fits = key.len() == 33 && key[0] == COSIGNATURE;
        let fits = fits && id == HEXLOWER.encode(&key_id(name, &key)) && !name.is_empty();
        fits.then(|| Self { name: name.to_owned(), key, text: text.trim().to_owned() })
    }

    /// The line with which this witness has signed a note, if it has (C2SP tlog-cosignature, v1).
    pub(crate) fn line<'n>(&self, note: &'n str) -> Option<&'n str> {
        let (text, lines) = parts(note)?;
        lines.lines().find(|line| self.verifies(text, line).is_some())
    }

    fn verifies(&self, text: &str, line: &str) -> Option<()> {
        let (name, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let signature = BASE64.decode(signature.as_bytes()).ok()?;
        let (id, signature) = signature.split_at_checked(4)?;
        let (time, signature) = signature.split_at_checked(8)?;
        let time = u64::from_be_bytes(time.try_into().ok()?);
        let message = format!("cosignature/v1\ntime {time}\n{text}");
        let known = name == self.name && id == key_id(name, &self.key);
        let key = UnparsedPublicKey::new(&ED25519, &self.key[1..]);
        known.then(|| key.verify(message.as_bytes(), signature).ok())?
    }
}

/// The size that a note of this log tells.
pub(crate) fn size(note: &str) -> Option<u64> {
    note.lines().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use signed_note::{Note, StandardVerifier, Verifier, VerifierList};
    use verifier::{Pins, Refused};

    use super::*;

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn pins(signer: &Signer) -> Pins {
        let parse = |it: &String| verifier::note::VerifierKey::parse(it).unwrap();
        Pins { keys: signer.verifier_keys().iter().map(parse).collect(), org_id: None }
    }

    /// our verifier believes our notes, and so does one of others.
    #[test]
    fn a_note_is_believed_by_the_verifier_and_by_that_of_others() {
        let signer = Signer::new(vec![key(7)], "example.com/log");
        let note = signer.sign("org", 2, &[9; 32]);
        let head = verifier::note::open(&note, &pins(&signer)).unwrap();
        assert_eq!(
            (head.origin.as_str(), head.size, head.root),
            ("example.com/log/org", 2, [9; 32])
        );

        let theirs = StandardVerifier::new(&signer.verifier_keys()[0]).unwrap();
        let known = VerifierList::new(vec![Box::new(theirs) as Box<dyn Verifier>]);
        let (good, unknown) = Note::from_bytes(note.as_bytes()).unwrap().verify(&known).unwrap();
        assert_eq!((good.len(), unknown.len()), (1, 0));
        let forged = note.replace("\n2\n", "\n3\n");
        assert!(Note::from_bytes(forged.as_bytes()).unwrap().verify(&known).is_err());
    }

    /// While a key is changed, who has the old one and who has the new one both believe.
    #[test]
    fn two_keys_sign_while_one_is_changed() {
        let both = Signer::new(vec![key(2), key(1)], "example.com/log");
        let note = both.sign("org", 1, &[1; 32]);
        for seed in [1, 2] {
            let one = Signer::new(vec![key(seed)], "example.com/log");
            assert!(verifier::note::open(&note, &pins(&one)).is_ok());
        }
        let other = Signer::new(vec![key(3)], "example.com/log");
        assert_eq!(verifier::note::open(&note, &pins(&other)), Err(Refused::UnknownKey));
        assert!(both.signed(&note) && !other.signed(&note));
    }

    /// C2SP tlog-cosignature: a witness signs the head with a time; nobody else's line counts.
    #[test]
    fn a_cosignature_counts_if_its_witness_is_known() {
        let signer = Signer::new(vec![key(7)], "example.com/log");
        let note = signer.sign("suite", 2, &[9; 32]);
        let (witness, line) = witness(&note, 5);
        let cosigned = format!("{note}{line}\n");
        assert_eq!(witness.line(&cosigned), Some(line.as_str()));
        assert!(verifier::note::open(&cosigned, &pins(&signer)).is_ok());
        assert_eq!(witness.line(&note), None);
        let moved = cosigned.replace("\n2\n", "\n3\n");
        assert_eq!(witness.line(&moved), None, "of another head");
        let plain = &signer.verifier_keys()[0];
        assert_eq!(Witness::parse(plain), None, "a key of a log is none of a witness");
    }

    /// A witness of the name `w.example`, and its line under a note.
    fn witness(note: &str, seed: u8) -> (Witness, String) {
        let (pair, name, time) = (key(seed), "w.example", 1_700_000_000_u64);
        let public = [&[COSIGNATURE], pair.public_key().as_ref()].concat();
        let id = key_id(name, &public);
        let vkey = format!("{name}+{}+{}", HEXLOWER.encode(&id), BASE64.encode(&public));
        let text = parts(note).unwrap().0;
        let signature = pair.sign(format!("cosignature/v1\ntime {time}\n{text}").as_bytes());
        let bytes = [&id[..], &time.to_be_bytes(), signature.as_ref()].concat();
        (Witness::parse(&vkey).unwrap(), format!("\u{2014} {name} {}", BASE64.encode(&bytes)))
    }
}
