//! The lines of a bundle: everything that proves the entries in it, for a verifier that has nothing else.
//!
//! | line | holds |
//! |---|---|
//! | first | which log, the signed head, where that head is in the suite's tree |
//! | one per entry | index, hash and bytes of the leaf, what opens its fields; with a filter its path |
//! | one per entry that is not shown any more | index and hash of the leaf |
//! | last | how many entries there are |

use std::collections::BTreeMap;

use chassis::key::Secret;
use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::{
    entry::Row,
    merkle::{Hash, leaf_hash},
    seal::PersonId,
};

/// The version of the format.
const VERSION: u32 = 1;

/// The first line.
pub(crate) fn head(origin: &str, checkpoint: &str, whole: bool, suite: &Value) -> Value {
    json!({
        "tenantry_audit_bundle": VERSION,
        "origin": origin,
        "checkpoint": checkpoint,
        // Whether every entry up to the head is in it.
        "whole": whole,
        "suite": suite,
    })
}

/// The line of an entry. `keys` open this leaf and no other.
pub(crate) fn entry(
    row: &Row,
    keys: &BTreeMap<PersonId, Secret>,
    path: Option<&[Vec<u8>]>,
) -> Value {
    let keys: BTreeMap<String, String> =
        keys.iter().map(|it| (it.0.to_string(), BASE64.encode(it.1))).collect();
    let (hash, leaf) = (BASE64.encode(&leaf_hash(&row.leaf)), BASE64.encode(&row.leaf));
    let mut line = json!({ "index": row.index, "leaf_hash": hash, "leaf": leaf, "keys": keys });
    if let Some(path) = path {
        line["hashes"] = path.iter().map(|it| BASE64.encode(it)).collect();
    }
    line
}

/// The line of an entry that is not shown any more.
pub(crate) fn hidden(index: i64, hash: &Hash) -> Value {
    json!({ "index": index, "leaf_hash": BASE64.encode(hash) })
}

/// The last line.
pub(crate) fn end(count: i64) -> Value {
    json!({ "end": true, "count": count })
}
