//! Lines of a bundle: entries with everything that proves them, for a verifier that has only this file and
//! the public key. A bundle is complete if it has every entry up to the checkpoint, and filtered otherwise.
//! The suite tree contains the checkpoints of all other trees.
//!
//! | line | content |
//! |---|---|
//! | first | the log, the checkpoint, and the proof that the checkpoint is in the suite tree |
//! | one per entry | index, leaf hash, leaf, keys of sealed fields; if filtered, inclusion proof (`hashes`) |
//! | one per entry that is purged or older than the retention | index and leaf hash |
//! | one per entry with a credential in a URL ([`crate::url_credential`]) | the same; if filtered, `hashes` |
//! | last | number of entries |

use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use crate::{
    entry::EntryRow,
    merkle::{Hash, leaf_hash},
    seal::LeafKeys,
};

/// Version of the format.
const VERSION: u32 = 1;

/// Returns the first line. The format calls a complete bundle `whole`.
pub(super) fn header(
    origin: &str,
    checkpoint: &str,
    is_complete: bool,
    suite_proof: &Value,
) -> Value {
    json!({
        "tenantry_audit_bundle": VERSION,
        "origin": origin,
        "checkpoint": checkpoint,
        "whole": is_complete,
        "suite": suite_proof,
    })
}

/// Returns the line of an entry. `leaf_keys` open the sealed fields of this leaf and of no other, each those
/// with the data of one person.
pub(crate) fn entry_line(
    row: &EntryRow,
    leaf_keys: &LeafKeys,
    inclusion_proof: Option<&[Vec<u8>]>,
) -> Value {
    let keys = leaf_keys.iter().map(|(id, key)| (id.to_string(), BASE64.encode(key).into()));
    let keys: Map<String, Value> = keys.collect();
    let mut line = json!({
        "index": row.index,
        "leaf_hash": BASE64.encode(&leaf_hash(&row.leaf)),
        "leaf": BASE64.encode(&row.leaf),
        "keys": keys,
    });
    add_inclusion_proof(&mut line, inclusion_proof);
    line
}

fn add_inclusion_proof(line: &mut Value, inclusion_proof: Option<&[Vec<u8>]>) {
    if let Some(hashes) = inclusion_proof {
        line["hashes"] = hashes.iter().map(|it| BASE64.encode(it)).collect();
    }
}

/// Returns the line of an entry whose leaf is not shown.
pub(crate) fn withheld_line(row: &EntryRow, inclusion_proof: Option<&[Vec<u8>]>) -> Value {
    let mut line = hash_only_line(row.index, &leaf_hash(&row.leaf));
    add_inclusion_proof(&mut line, inclusion_proof);
    line
}

/// Returns the line of an entry that is purged or older than the retention.
pub(crate) fn hash_only_line(index: i64, hash: &Hash) -> Value {
    json!({ "index": index, "leaf_hash": BASE64.encode(hash) })
}

/// Returns the last line.
pub(super) fn last_line(count: i64) -> Value {
    json!({ "end": true, "count": count })
}
