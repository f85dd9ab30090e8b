//! Signing of tree heads: keys, the lease of the signer, the recording of signed heads,
//! and the signing loop.

mod follow;
pub(crate) mod key;
mod lease;
pub(crate) mod run;
mod store;
mod verify;
