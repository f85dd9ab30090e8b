//! Parts as JSON Lines, compressed with gzip. A line is that of a bundle ([`crate::export::bundle`]), so that
//! `tenantry verify` reads it, with the opened entry in `entry`.

use std::io::Write;

use anyhow::Context;
use chassis::Result;
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

use super::{Content, PartEntry};
use crate::export::bundle;

/// Encodes entries. The result has no time, so that the same entries give the same bytes.
pub(super) fn encode(entries: &[PartEntry]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(vec![], Compression::default());
    for entry in entries {
        writeln!(encoder, "{}", line(entry)).context("a part cannot be compressed")?;
    }
    Ok(encoder.finish().context("a part cannot be compressed")?)
}

fn line(entry: &PartEntry) -> Value {
    let Some(Content { row, keys, is_leaf_withheld, json, .. }) = &entry.content else {
        return bundle::hash_only_line(entry.index, &entry.leaf_hash);
    };
    let mut line = if *is_leaf_withheld {
        bundle::withheld_line(row, None)
    } else {
        bundle::entry_line(row, keys, None)
    };
    line["entry"] = json.clone();
    line
}
