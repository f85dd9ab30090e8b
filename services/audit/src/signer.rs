//! Signing of tree heads: keys, the signing loop, and the suite tree.

pub(crate) mod key;
pub(crate) mod run;
mod store;
