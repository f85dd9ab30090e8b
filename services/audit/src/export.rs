//! Exports: all entries that a filter finds, oldest first, as a file.

pub(crate) mod bundle;
pub(crate) mod csv;
pub(crate) mod ocsf;
pub(crate) mod run;

pub(crate) use run::Export;
