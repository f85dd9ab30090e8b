//! Keys and signed heads (C2SP signed-note, tlog-checkpoint).

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ED25519, UnparsedPublicKey},
};
use data_encoding::{BASE64, HEXLOWER};

use crate::{Head, Pins, Refused, malformed};

/// More signatures than any honest head has; the specification asks for 16 at least.
const SIGNATURES_MAX: usize = 100;

/// A public key of a log, with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    /// The log.
    pub name: String,
    id: [u8; 4],
    public: [u8; 32],
}

impl VerifierKey {
    /// Reads `<name>+<key id in hex>+<base64 of type and key>`; only Ed25519 (type 1).
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed("the verifier key must look like <name>+<id>+<key>"));
        };
        let key = BASE64.decode(key.as_bytes()).map_err(|_| malformed("the key is no base64"))?;
        let Some((1, public)) = key.split_first() else {
            return Err(malformed("the verifier key is not of type Ed25519"));
        };
        let public = public.try_into().map_err(|_| malformed("an Ed25519 key has 32 bytes"))?;
        let hash = digest(&SHA256, &[name.as_bytes(), b"\n", &key].concat());
        let computed: [u8; 4] = hash.as_ref()[..4].try_into().expect("SHA-256 is longer than that");
        if id != HEXLOWER.encode(&computed) {
            return Err(malformed("the verifier key and its id do not belong together"));
        }
        Ok(Self { name: name.to_owned(), id: computed, public })
    }

    /// Whether a signature line, without its dash, is of this key, and is right.
    fn verifies(&self, text: &str, name: &str, signature: &[u8]) -> Option<bool> {
        let (id, signature) = signature.split_at_checked(4)?;
        if name != self.name || id != self.id {
            return None;
        }
        let key = UnparsedPublicKey::new(&ED25519, &self.public);
        Some(key.verify(text.as_bytes(), signature).is_ok())
    }
}

/// Believes a signed head, if it is signed by a pinned key and is of the pinned organization. Signatures of
/// others are passed over.
pub fn open(note: &str, pins: &Pins) -> Result<Head, Refused> {
    let head = open_any(note, pins)?;
    let names = pins.keys.iter().map(|it| &it.name);
    let tree = names.filter_map(|it| head.origin.strip_prefix(it.as_str())?.strip_prefix('/'));
    let tree: Vec<_> = tree.collect();
    let wanted = pins.org_id.as_ref();
    if tree.is_empty() || wanted.is_some_and(|it| !tree.contains(&it.as_str())) {
        let name = pins.keys.first().map(|it| it.name.clone()).unwrap_or_default();
        let wanted = wanted.map_or_else(|| name.clone(), |it| format!("{name}/{it}"));
        return Err(Refused::WrongOrigin { found: head.origin, wanted });
    }
    Ok(head)
}

/// The same, of any tree.
pub(crate) fn open_any(note: &str, pins: &Pins) -> Result<Head, Refused> {
    let text = signed_text(note, pins)?;
    let lines: Vec<&str> = text.split_terminator('\n').collect();
    let [origin, size, root] = lines.as_slice() else {
        return Err(malformed("a head has three lines"));
    };
    let canonical = size.parse::<u64>().ok().filter(|it| it.to_string() == **size);
    let size = canonical.ok_or_else(|| malformed("the size of the head is no number"))?;
    let root = BASE64.decode(root.as_bytes()).ok().and_then(|it| it.try_into().ok());
    let root = root.ok_or_else(|| malformed("the root of the head is no hash"))?;
    Ok(Head { origin: (*origin).to_owned(), size, root })
}

/// The text of a note, if a pinned key signed it.
fn signed_text<'n>(note: &'n str, pins: &Pins) -> Result<&'n str, Refused> {
    let end = note.rfind("\n\n").ok_or_else(|| malformed("the head has no signature"))?;
    let (text, signatures) = (&note[..=end], &note[end + 2..]);
    if !signatures.ends_with('\n') || text.contains('\r') || signatures.contains('\r') {
        return Err(malformed("the lines of the head do not end as they should"));
    }
    let lines: Vec<_> = signatures.split_terminator('\n').collect();
    if lines.is_empty() || lines.len() > SIGNATURES_MAX {
        return Err(malformed("the head has no signature, or too many"));
    }
    let mut good = false;
    for line in lines {
        let parts = line.strip_prefix("\u{2014} ").and_then(|it| it.split_once(' '));
        let (name, signature) = parts.ok_or_else(|| malformed("a signature line is malformed"))?;
        let signature = BASE64.decode(signature.as_bytes());
        let signature = signature.map_err(|_| malformed("a signature is no base64"))?;
        if signature.len() < 5 {
            return Err(malformed("a signature is too short"));
        }
        for key in &pins.keys {
            match key.verifies(text, name, &signature) {
                Some(true) => good = true,
                // In the name of the key, and not by it: somebody tries.
                Some(false) => return Err(Refused::BadSignature),
                None => {}
            }
        }
    }
    if good { Ok(text) } else { Err(Refused::UnknownKey) }
}
