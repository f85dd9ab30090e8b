//! Proofs: inclusion of entries in checkpoints, and consistency of checkpoints.

pub(crate) mod prove;
pub(crate) mod rpc;
pub(crate) mod store;

use api::error::Reason;
use chassis::{Code, Error};

fn refusal(code: Code, reason: Reason, message: &str) -> Error {
    Error::Refused { code, reason, message: message.to_owned(), metadata: vec![] }
}

/// Refusal while no published checkpoint covers the entry. Checkpoints are signed within a second; with
/// witnesses, they are published when these have cosigned.
pub(crate) fn not_yet_signed() -> Error {
    let message = "no published checkpoint covers the entry yet; retry in a second";
    refusal(Code::FailedPrecondition, Reason::NotYetSigned, message)
}

/// Refusal to return a leaf with a credential in a URL.
fn leaf_withheld() -> Error {
    let message = "the leaf contains a credential in a URL, which an older version recorded; ListEntries \
                   returns the entry with the credential masked, and bundles have its hash";
    refusal(Code::FailedPrecondition, Reason::LeafWithheld, message)
}
