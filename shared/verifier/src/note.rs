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
    public: [u8; 32],
}

impl VerifierKey {
    /// Parses `<name>+<key id in hex>+<base64 of type and key>`. Only Ed25519 (type 1) is supported.
    pub fn parse(text: &str) -> Result<Self, VerifyError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed("the verifier key must be of the form <name>+<id>+<key>"));
        };
        let key = BASE64.decode(key.as_bytes());
        let key = key.map_err(|_| malformed("the verifier key is not base64"))?;
        let Some((&ED25519_TYPE, public)) = key.split_first() else {
            return Err(malformed("the verifier key is not of type Ed25519"));
        };
        let public = public.try_into();
        let public = public.map_err(|_| malformed("the Ed25519 key is not 32 bytes long"))?;
        let hash = digest(&SHA256, &[name.as_bytes(), b"\n", &key].concat());
        let expected: [u8; KEY_ID_LEN] =
            hash.as_ref()[..KEY_ID_LEN].try_into().expect("SHA-256 has 32 bytes");
        if id != HEXLOWER.encode(&expected) {
            return Err(malformed("the id of the verifier key does not match its name and key"));
        }
        Ok(Self { name: name.to_owned(), id: expected, public })
    }

    /// Verifies the key id and signature of one signature line over `text`. `None` if the line is of another
    /// key.
    fn verify(&self, text: &str, name: &str, signature: &[u8]) -> Option<bool> {
        let (id, signature) = signature.split_at_checked(KEY_ID_LEN)?;
        if name != self.name || id != self.id {
            return None;
        }
        let key = UnparsedPublicKey::new(&ED25519, &self.public);
        Some(key.verify(text.as_bytes(), signature).is_ok())
    }
}

/// Verifies a signed checkpoint: a pinned key must have signed it, and it must be of the pinned organization.
/// Signatures of unknown keys are ignored.
pub fn open(note: &str, pins: &Pins) -> Result<Checkpoint, VerifyError> {
    let checkpoint = parse_checkpoint(verify_signatures(note, pins)?)?;
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

/// Parses the three lines of a checkpoint: origin, size and root (C2SP tlog-checkpoint).
fn parse_checkpoint(text: &str) -> Result<Checkpoint, VerifyError> {
    let lines: Vec<&str> = text.split_terminator('\n').collect();
    let [origin, size, root] = lines.as_slice() else {
        return Err(malformed("a checkpoint must have three lines"));
    };
    let canonical = size.parse::<u64>().ok().filter(|it| it.to_string() == **size);
    let size = canonical.ok_or_else(|| malformed("the size of the checkpoint is not a number"))?;
    let root = BASE64.decode(root.as_bytes()).ok().and_then(|it| it.try_into().ok());
    let root = root.ok_or_else(|| malformed("the root of the checkpoint is not a hash"))?;
    Ok(Checkpoint { origin: (*origin).to_owned(), size, root })
}

/// Verifies the signatures of a note and returns the signed text.
fn verify_signatures<'n>(note: &'n str, pins: &Pins) -> Result<&'n str, VerifyError> {
    let separator = note.rfind("\n\n");
    let separator = separator.ok_or_else(|| malformed("the checkpoint has no signature"))?;
    let text = &note[..=separator];
    let signatures = &note[separator + 2..];
    if !signatures.ends_with('\n') || text.contains('\r') || signatures.contains('\r') {
        return Err(malformed("a line of the checkpoint does not end with a line feed"));
    }
    let lines: Vec<_> = signatures.split_terminator('\n').collect();
    if lines.is_empty() || lines.len() > SIGNATURES_MAX {
        return Err(malformed(format!(
            "the checkpoint must have 1 to {SIGNATURES_MAX} signatures"
        )));
    }
    let mut is_signed = false;
    for line in lines {
        let parts = line.strip_prefix("\u{2014} ").and_then(|it| it.split_once(' '));
        let (name, signature) =
            parts.ok_or_else(|| malformed("a signature line of the checkpoint is malformed"))?;
        let signature = BASE64.decode(signature.as_bytes());
        let signature =
            signature.map_err(|_| malformed("a signature of the checkpoint is not base64"))?;
        if signature.len() <= KEY_ID_LEN {
            return Err(malformed("a signature of the checkpoint is too short"));
        }
        for key in &pins.keys {
            match key.verify(text, name, &signature) {
                Some(true) => is_signed = true,
                // The line claims to be of a pinned key: a forgery.
                Some(false) => return Err(VerifyError::BadSignature),
                None => {}
            }
        }
    }
    if is_signed { Ok(text) } else { Err(VerifyError::UnknownKey) }
}
