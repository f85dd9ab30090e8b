//! Proofs: paths from entries to signed heads, and from older heads to newer ones.

pub(crate) mod path;
pub(crate) mod rpc;
pub(crate) mod store;
