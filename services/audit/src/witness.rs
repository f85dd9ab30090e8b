//! Cosignatures of witnesses for the checkpoints of the suite tree (C2SP tlog-witness).

mod client;
pub(crate) mod cosigning;
