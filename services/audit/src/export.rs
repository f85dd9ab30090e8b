//! Exports: all entries that match a query, oldest first, as a file.

mod bundle;
mod csv;
mod ocsf;
mod record;
mod stream;
#[cfg(test)]
mod tests;
mod verification;

pub(crate) use stream::{Export, ExportRequest};
