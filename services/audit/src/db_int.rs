//! Conversion between sizes and indexes (`u64`) and PostgreSQL's `bigint` (`i64`).

use anyhow::Context;
use chassis::Result;

/// Converts a size or an index to `bigint`.
pub(crate) fn to_db_int(number: u64) -> Result<i64> {
    Ok(i64::try_from(number).context("a tree has less than 2^63 leaves")?)
}

/// Converts a `bigint` to a size or an index.
pub(crate) fn from_db_int(number: i64) -> Result<u64> {
    Ok(u64::try_from(number).context("a size or an index is not negative")?)
}
