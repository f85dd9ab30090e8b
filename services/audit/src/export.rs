//! Exports: all entries that match a query, oldest first, as a file.

pub(crate) mod bundle;
mod csv;
mod ocsf;
pub(crate) mod record;
mod stream;
#[cfg(test)]
mod tests;
pub(crate) mod verification;

pub(crate) use stream::{Export, ExportRequest};
