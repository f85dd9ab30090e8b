//! Exports: all entries that match a query, oldest first, as a file.

mod bundle;
mod csv;
mod ocsf;
mod stream;
mod verification;

pub(crate) use stream::{Export, ExportRequest};
