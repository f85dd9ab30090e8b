//! Verifier keys, and verification of signed checkpoints (C2SP signed-note, tlog-checkpoint).

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ED25519, UnparsedPublicKey},
};
use data_encoding::{BASE64, HEXLOWER};

use crate::{Checkpoint, Pins, VerifyError, malformed};

/// Most signatures of a note. The specification requires support of at least 16.
const SIGNATURES_MAX: usize = 100;

/// Signature type of Ed25519 in C2SP signed-note.
const ED25519_TYPE: u8 = 1;

/// Length in bytes of the key id before a signature.
const KEY_ID_LEN: usize = 4;

/// Public key of a log, with the log's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    /// Name of the log.
    pub name: String,
    id: [u8; KEY_ID_LEN],
    pub(crate) public: [u8; 32],
}

impl VerifierKey {
    /// Parses `<name>+<key id in hex>+<base64 of type and key>`. Only Ed25519 (type 1) is supported.
    pub fn parse(text: &str) -> Result<Self, VerifyError> {
        Self::parse_type(text, ED25519_TYPE)
    }

    /// Parses a key of a signature type whose keys are those of Ed25519.
    pub(crate) fn parse_type(text: &str, signature_type: u8) -> Result<Self, VerifyError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed("the verifier key must be of the form <name>+<id>+<key>"));
        };
        let key = BASE64.decode(key.as_bytes());
        let key = key.map_err(|_| malformed("the verifier key is not base64"))?;
        let public = key.strip_prefix(&[signature_type]).ok_or_else(|| {
            malformed(match signature_type {
                ED25519_TYPE => "the verifier key is not of type Ed25519",
                _ => "the verifier key is not of a witness: its type is not cosignature/v1",
            })
        })?;
        let public = public.try_into();
        let public = public.map_err(|_| malformed("the Ed25519 key is not 32 bytes long"))?;
        let expected = key_id(name, &key);
        if id != HEXLOWER.encode(&expected) {
            return Err(malformed("the id of the verifier key does not match its name and key"));
        }
        Ok(Self { name: name.to_owned(), id: expected, public })
    }

    /// Returns the bytes after the key id, if the line names this key.
    pub(crate) fn signature<'l>(&self, line: &'l SignatureLine<'_>) -> Option<&'l [u8]> {
        let (id, signature) = line.bytes.split_at_checked(KEY_ID_LEN)?;
        (line.name == self.name && id == self.id).then_some(signature)
    }

    /// Verifies an Ed25519 signature of this key.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.public).verify(message, signature).is_ok()
    }
}

/// Computes the key id of C2SP signed-note from the name and the key after its type.
pub(crate) fn key_id(name: &str, typed_key: &[u8]) -> [u8; KEY_ID_LEN] {
    let hash = digest(&SHA256, &[name.as_bytes(), b"\n", typed_key].concat());
    hash.as_ref()[..KEY_ID_LEN].try_into().expect("SHA-256 has 32 bytes")
}

/// Parts of a note, of which nothing is verified.
pub(crate) struct NoteParts<'n> {
    /// The signed text, with its last line feed.
    pub(crate) text: &'n str,
    pub(crate) signatures: Vec<SignatureLine<'n>>,
}

/// A signature line.
pub(crate) struct SignatureLine<'n> {
    /// The line, without its line feed.
    pub(crate) line: &'n str,
    name: &'n str,
    /// Key id and signature.
    bytes: Vec<u8>,
}

impl<'n> SignatureLine<'n> {
    /// Parses a line without its line feed.
    pub(crate) fn parse(line: &'n str) -> Result<Self, VerifyError> {
        let parts = line.strip_prefix("\u{2014} ").and_then(|it| it.split_once(' '));
        let (name, signature) =
            parts.ok_or_else(|| malformed("a signature line of the checkpoint is malformed"))?;
        let bytes = BASE64.decode(signature.as_bytes());
        let bytes = bytes.map_err(|_| malformed("a signature of the checkpoint is not base64"))?;
        if bytes.len() <= KEY_ID_LEN {
            return Err(malformed("a signature of the checkpoint is too short"));
        }
        Ok(Self { line, name, bytes })
    }
}

impl<'n> NoteParts<'n> {
    pub(crate) fn parse(note: &'n str) -> Result<Self, VerifyError> {
        let separator = note.rfind("\n\n");
        let separator = separator.ok_or_else(|| malformed("the checkpoint has no signature"))?;
        let text = &note[..=separator];
        let signatures = &note[separator + 2..];
        if !signatures.ends_with('\n') || note.contains('\r') {
            return Err(malformed("a line of the checkpoint does not end with a line feed"));
        }
        if note.bytes().any(|it| it < b' ' && it != b'\n') {
            return Err(malformed("the checkpoint has a control character"));
        }
        let lines: Vec<_> = signatures.split_terminator('\n').collect();
        if lines.is_empty() || lines.len() > SIGNATURES_MAX {
            return Err(malformed(format!(
                "the checkpoint must have 1 to {SIGNATURES_MAX} signatures"
            )));
        }
        let signatures = lines.into_iter().map(SignatureLine::parse).collect::<Result<_, _>>()?;
        Ok(Self { text, signatures })
    }

    /// Returns the signature lines of these keys. Fails if there is none, or if one is not valid.
    fn lines_of(&self, keys: &[VerifierKey]) -> Result<Vec<&'n str>, VerifyError> {
        let mut lines = vec![];
        for line in &self.signatures {
            for key in keys {
                match key.signature(line) {
                    Some(signature) if key.has_signed(self.text.as_bytes(), signature) => {
                        lines.push(line.line);
                    }
                    // The line claims to be of a pinned key: a forgery.
                    Some(_) => return Err(VerifyError::BadSignature),
                    None => {}
                }
            }
        }
        if lines.is_empty() { Err(VerifyError::UnknownKey) } else { Ok(lines) }
    }
}

/// Verifies a signed checkpoint: a pinned key must have signed it, and it must be of the pinned organization.
/// Signatures of unknown keys are ignored.
pub fn open(note: &str, pins: &Pins) -> Result<Checkpoint, VerifyError> {
    let note = NoteParts::parse(note)?;
    note.lines_of(&pins.keys)?;
    let (checkpoint, extensions) = parse_checkpoint(note.text)?;
    if !extensions.is_empty() {
        return Err(malformed("a checkpoint must have three lines"));
    }
    let log_names = pins.keys.iter().map(|it| it.name.as_str());
    let tree_in = |log: &str| checkpoint.origin.strip_prefix(log)?.strip_prefix('/');
    let trees: Vec<&str> = log_names.filter_map(tree_in).collect();
    let expected_tree = pins.org_id.as_ref();
    if trees.is_empty() || expected_tree.is_some_and(|it| !trees.contains(&it.as_str())) {
        let log = pins.keys.first().map(|it| it.name.clone()).unwrap_or_default();
        let expected = expected_tree.map_or_else(|| log.clone(), |it| format!("{log}/{it}"));
        return Err(VerifyError::WrongOrigin { found: checkpoint.origin, expected });
    }
    Ok(checkpoint)
}

/// Returns the origin of a checkpoint, without a verification.
pub fn unverified_origin(note: &str) -> &str {
    note.lines().next().unwrap_or_default()
}

/// Returns the tree head in a checkpoint, without verifying its signatures.
pub fn unverified_head(note: &str) -> Result<Checkpoint, VerifyError> {
    Ok(parse_checkpoint(NoteParts::parse(note)?.text)?.0)
}

/// A verified checkpoint of any log, for witnesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint<'n> {
    /// The tree head.
    pub head: Checkpoint,
    /// The signed text, with its last line feed. It can have extension lines.
    pub text: &'n str,
    /// The signature lines of the keys, without line feeds.
    pub lines: Vec<&'n str>,
}

/// Verifies a checkpoint of any log: one of `keys` must have signed it. Signatures of other keys are ignored.
pub fn open_with_keys<'n>(
    note: &'n str,
    keys: &[VerifierKey],
) -> Result<SignedCheckpoint<'n>, VerifyError> {
    let parts = NoteParts::parse(note)?;
    let lines = parts.lines_of(keys)?;
    let (head, _) = parse_checkpoint(parts.text)?;
    Ok(SignedCheckpoint { head, text: parts.text, lines })
}

/// Parses a checkpoint: origin, size and root, and extension lines (C2SP tlog-checkpoint).
fn parse_checkpoint(text: &str) -> Result<(Checkpoint, Vec<&str>), VerifyError> {
    let lines: Vec<&str> = text.split_terminator('\n').collect();
    let [origin, size, root, extensions @ ..] = lines.as_slice() else {
        return Err(malformed("a checkpoint must have three lines"));
    };
    if origin.is_empty() || extensions.iter().any(|it| it.is_empty()) {
        return Err(malformed("a line of the checkpoint is empty"));
    }
    let canonical = size.parse::<u64>().ok().filter(|it| it.to_string() == **size);
    let size = canonical.ok_or_else(|| malformed("the size of the checkpoint is not a number"))?;
    let root = BASE64.decode(root.as_bytes()).ok().and_then(|it| it.try_into().ok());
    let root = root.ok_or_else(|| malformed("the root of the checkpoint is not a hash"))?;
    Ok((Checkpoint { origin: (*origin).to_owned(), size, root }, extensions.to_vec()))
}
