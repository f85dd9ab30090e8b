//! Signing heads: keys, rounds, and what is stored about them.

pub(crate) mod key;
pub(crate) mod run;
pub(crate) mod store;
