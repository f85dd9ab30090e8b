//! Proves entries of the audit log offline, for somebody who trusts a public key and nothing else. It shares
//! no code with the service that builds the log: what it checks is written here from the specifications
//! (RFC 6962 and RFC 9162, C2SP signed-note and tlog-checkpoint).
//!
//! | concept | file |
//! |---|---|
//! | keys and signed heads | `note` |
//! | roots and paths of a tree | `tree` |
//! | sealed fields of people | `sealed` |
//! | one entry with its path: a receipt | `receipt` |
//! | a file with many entries: a bundle | `bundle` |
//! | the newest head that was seen | `seen` |

pub mod bundle;
pub mod note;
pub mod receipt;
pub mod sealed;
pub mod seen;
pub mod tree;

use serde_json::Value;

/// Why something is not believed. The first word of each is stable, for scripts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not have the form that it should have.
    #[error("MALFORMED: {0}")]
    Malformed(String),
    /// The head is signed by nobody whose key is pinned.
    #[error("UNKNOWN_KEY: the head carries no signature of the key that you gave")]
    UnknownKey,
    /// The head carries a signature in the name of the key, which is not of the key.
    #[error("BAD_SIGNATURE: the signature of the head is wrong; it is not from this log")]
    BadSignature,
    /// The head is of another log, or of another organization.
    #[error("WRONG_ORIGIN: the head is of {found}, not of {wanted}")]
    WrongOrigin {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// A path does not lead to the signed root.
    #[error(
        "NOT_IN_LOG: entry {index} is not under the signed head: it was changed, or the proof is of another"
    )]
    NotInLog {
        /// The entry.
        index: u64,
    },
    /// An entry is beyond the head.
    #[error("BEYOND_HEAD: entry {index} is beyond the head, which has {size} entries")]
    BeyondHead {
        /// The entry.
        index: u64,
        /// Entries of the head.
        size: u64,
    },
    /// The bytes of an entry are not those that were hashed.
    #[error(
        "CHANGED: entry {index} was changed: its bytes do not have the hash that the log gave it"
    )]
    Changed {
        /// The entry.
        index: u64,
    },
    /// Entries are missing, or out of their order.
    #[error("MISSING: entry {index} is missing")]
    Missing {
        /// The entry.
        index: u64,
    },
    /// The entries together do not give the signed root.
    #[error(
        "ROOT_MISMATCH: the entries do not give the signed root: some were changed together with their \
             hashes, or change places"
    )]
    RootMismatch,
    /// A service's events are not all there.
    #[error("GAP: {source_name} has no event {sequence} in the log (found at entry {index})")]
    Gap {
        /// The service.
        source_name: String,
        /// The number that is missing.
        sequence: i64,
        /// Where that was found.
        index: u64,
    },
    /// The log has fewer entries than it had.
    #[error(
        "ROLLED_BACK: the head has {size} entries, but {seen} were seen before; prove with --consistency \
             that it is an older one of the same log"
    )]
    RolledBack {
        /// Entries of the head.
        size: u64,
        /// Entries of the head that was seen.
        seen: u64,
    },
    /// The log is another than the one that was seen.
    #[error(
        "FORKED: this log is not the one that was seen before with {seen} entries: it was rewritten"
    )]
    Forked {
        /// Entries of the head that was seen.
        seen: u64,
    },
    /// A newer head was not proven to continue the one that was seen.
    #[error(
        "NO_CONSISTENCY: {seen} entries were seen before and now there are {size}; give the answer of \
             GetConsistencyProof from {seen} to {size} with --consistency"
    )]
    NoConsistency {
        /// Entries of the head that was seen.
        seen: u64,
        /// Entries of the head.
        size: u64,
    },
    /// A key opens nothing of the entry that it is given for.
    #[error("WRONG_PERSON_KEY: a key of entry {index} does not open what is sealed there")]
    WrongPersonKey {
        /// The entry.
        index: u64,
    },
}

/// Whose word is taken: found out from the operator, never from the log.
#[derive(Clone, Debug)]
pub struct Pins {
    /// Keys of the log.
    pub keys: Vec<note::VerifierKey>,
    /// The organization; any of this log without it.
    pub org_id: Option<String>,
}

/// A head that was believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The log and the tree.
    pub origin: String,
    /// Entries.
    pub size: u64,
    /// The root.
    pub root: tree::Hash,
}

pub(crate) fn malformed(what: impl Into<String>) -> Refused {
    Refused::Malformed(what.into())
}

/// A number of canonical protobuf JSON: a text or a number; nothing means zero.
pub(crate) fn number(json: &Value, name: &str) -> Result<u64, Refused> {
    match &json[name] {
        Value::Null => Ok(0),
        Value::String(it) => it.parse().map_err(|_| malformed(format!("{name} is no number"))),
        other => other.as_u64().ok_or_else(|| malformed(format!("{name} is no number"))),
    }
}

pub(crate) fn bytes(json: &Value, name: &str) -> Result<Vec<u8>, Refused> {
    let text = json.as_str().ok_or_else(|| malformed(format!("there is no {name}")))?;
    let decoded = data_encoding::BASE64.decode(text.as_bytes());
    decoded.map_err(|_| malformed(format!("{name} is no base64")))
}

pub(crate) fn hashes(json: &Value) -> Result<Vec<tree::Hash>, Refused> {
    let each = json.as_array().into_iter().flatten();
    let hash = |it: &Value| {
        let bytes = bytes(it, "hash")?;
        bytes.try_into().map_err(|_| malformed("a hash of the path has not 32 bytes"))
    };
    each.map(hash).collect()
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
