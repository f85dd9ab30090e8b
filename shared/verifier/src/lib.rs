//! Offline verification of the audit log, for an auditor who trusts only the public key of the log. Shares no
//! code with the service that builds the log: everything is implemented from the specifications (RFC 6962 and
//! RFC 9162, C2SP signed-note, tlog-checkpoint, tlog-tiles, tlog-cosignature, tlog-policy and tlog-proof).
//!
//! | concept | module |
//! |---|---|
//! | verifier keys and checkpoints (signed tree heads) | `note` |
//! | Merkle tree: roots, inclusion and consistency proofs | `tree` |
//! | decryption of sealed personal fields | `sealed` |
//! | receipt: one entry with its inclusion proof | `receipt` |
//! | bundle: an exported file with many entries | `bundle` |
//! | checkpoints that were verified before | `seen` |
//! | a log that is followed by its tiles | `tiles` |
//! | cosignatures of witnesses, and policies about them | `witness` |
//! | inclusion of a checkpoint in the suite tree, which witnesses cosign | `suite` |

pub mod bundle;
pub mod note;
pub mod receipt;
pub mod sealed;
pub mod seen;
pub mod suite;
pub mod tiles;
pub mod tree;
pub mod witness;

use serde_json::Value;

/// Refusal of a file, a checkpoint or an entry. The first word of each message is stable, for scripts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The input is not of the specified format.
    #[error("MALFORMED: {0}")]
    Malformed(String),
    /// No signature of the checkpoint is of a pinned key.
    #[error(
        "UNKNOWN_KEY: the checkpoint is not signed by the given verifier key; check the key, and which log \
             the file is from"
    )]
    UnknownKey,
    /// A signature names a pinned key but is invalid.
    #[error(
        "BAD_SIGNATURE: a signature in the name of the given verifier key is invalid: the checkpoint was not \
             signed by this log"
    )]
    BadSignature,
    /// The checkpoint is of another log or of another organization.
    #[error("WRONG_ORIGIN: the checkpoint is of {found}, expected {expected}")]
    WrongOrigin {
        /// Origin of the checkpoint.
        found: String,
        /// Expected origin.
        expected: String,
    },
    /// An inclusion proof does not lead to the signed root.
    #[error(
        "NOT_IN_LOG: the inclusion proof of entry {index} does not lead to the signed root: the entry was \
             changed, or the proof is of another entry"
    )]
    NotInLog {
        /// Index of the entry.
        index: u64,
    },
    /// An entry is beyond the checkpoint.
    #[error("BEYOND_HEAD: entry {index} is beyond the checkpoint, which covers {size} entries")]
    BeyondHead {
        /// Index of the entry.
        index: u64,
        /// Entries that the checkpoint covers.
        size: u64,
    },
    /// The bytes of an entry do not match its leaf hash.
    #[error("CHANGED: entry {index} was changed: its bytes do not match its leaf hash")]
    Changed {
        /// Index of the entry.
        index: u64,
    },
    /// The bytes of an entry in a bundle do not match its leaf hash in the tile.
    #[error(
        "CHANGED: entry {index} was changed: its bytes in {path} do not match its leaf hash, which leads to \
             the signed root"
    )]
    ChangedBundle {
        /// Index of the entry.
        index: u64,
        /// Path of the bundle.
        path: String,
    },
    /// The hashes of a tile do not lead to the signed root.
    #[error("CHANGED_TILE: {path} was changed: its hashes do not lead to the signed root")]
    ChangedTile {
        /// Path of the tile; several with commas between them if only their hashes together are wrong.
        path: String,
    },
    /// Entries are missing or out of order.
    #[error("MISSING: entry {index} is missing, or is not at its position")]
    Missing {
        /// Index of the entry.
        index: u64,
    },
    /// The entries together do not produce the signed root.
    #[error(
        "ROOT_MISMATCH: the entries do not produce the signed root: entries were changed together with their \
             hashes, or were reordered"
    )]
    RootMismatch,
    /// The sequence numbers of a service have a gap.
    #[error("GAP: event {sequence} of {source_name} is missing; detected at entry {index}")]
    Gap {
        /// Name of the service.
        source_name: String,
        /// The missing sequence number.
        sequence: i64,
        /// Index of the entry after the gap.
        index: u64,
    },
    /// The checkpoint covers fewer entries than one that was verified before.
    #[error(
        "ROLLED_BACK: the checkpoint covers {size} entries, but {seen} were covered before; to prove that it \
             is an older checkpoint of the same log, pass the response of GetConsistencyProof from {size} to \
             {seen} with --consistency"
    )]
    RolledBack {
        /// Entries that the checkpoint covers.
        size: u64,
        /// Entries that the checkpoint verified before covers.
        seen: u64,
    },
    /// The log does not continue the checkpoint that was verified before.
    #[error(
        "FORKED: the log does not continue the checkpoint of {seen} entries that was verified before: it was \
             rewritten, or it is another log"
    )]
    Forked {
        /// Entries that the checkpoint verified before covers.
        seen: u64,
    },
    /// There is no proof that the checkpoint continues the one that was verified before.
    #[error(
        "NO_CONSISTENCY: a checkpoint of {seen} entries was verified before, and this one covers {size}; \
             pass the response of GetConsistencyProof from {seen} to {size} with --consistency"
    )]
    NoConsistency {
        /// Entries that the checkpoint verified before covers.
        seen: u64,
        /// Entries that the checkpoint covers.
        size: u64,
    },
    /// A key does not decrypt the sealed fields of the entry that it belongs to.
    #[error("WRONG_PERSON_KEY: a key of entry {index} does not decrypt its sealed fields")]
    WrongPersonKey {
        /// Index of the entry.
        index: u64,
    },
    /// The checkpoint of the suite tree does not have the cosignatures that are required.
    #[error(
        "NOT_WITNESSED: the checkpoint, or that of the suite tree which includes it, is not cosigned by the \
             required witnesses; it is cosigned by {found}"
    )]
    NotWitnessed {
        /// Names of the witnesses of the policy whose cosignatures are valid.
        found: String,
    },
}

/// Trust anchors of a verification. They come from the operator of the log by another channel, never from the
/// log itself.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    /// Verifier keys of the log.
    pub keys: Vec<note::VerifierKey>,
    /// The expected organization; `None` accepts every organization of the log.
    pub org_id: Option<String>,
    /// Witnesses that must have cosigned the checkpoint, or that of the suite tree which includes it.
    pub witnesses: Option<witness::WitnessPolicy>,
}

/// A verified checkpoint: the signed head of one tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log and of the tree: `<log>/<organization>`, or `<log>/suite`.
    pub origin: String,
    /// Entries that the checkpoint covers.
    pub size: u64,
    /// Merkle root of these entries.
    pub root: tree::Hash,
}

pub(crate) fn malformed(what: impl Into<String>) -> VerifyError {
    VerifyError::Malformed(what.into())
}

/// Reads an integer of canonical protobuf JSON, which is a string or a number; an absent field is zero.
pub(crate) fn read_number(json: &Value, name: &str) -> Result<u64, VerifyError> {
    let not_a_number = || malformed(format!("{name} is not a number"));
    match &json[name] {
        Value::Null => Ok(0),
        Value::String(it) => it.parse().map_err(|_| not_a_number()),
        other => other.as_u64().ok_or_else(not_a_number),
    }
}

/// Decodes a base64 string; `name` is its field, for the error message.
pub(crate) fn read_bytes(json: &Value, name: &str) -> Result<Vec<u8>, VerifyError> {
    let text = json.as_str().ok_or_else(|| malformed(format!("the field {name} is missing")))?;
    let decoded = data_encoding::BASE64.decode(text.as_bytes());
    decoded.map_err(|_| malformed(format!("{name} is not base64")))
}

/// Decodes the hashes of a proof.
pub(crate) fn read_hashes(json: &Value) -> Result<Vec<tree::Hash>, VerifyError> {
    let hash = |it: &Value| {
        let bytes = read_bytes(it, "hash")?;
        bytes.try_into().map_err(|_| malformed("a hash of the proof is not 32 bytes long"))
    };
    json.as_array().into_iter().flatten().map(hash).collect()
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
