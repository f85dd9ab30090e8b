//! Objects in storage, for other services of the suite.

pub(crate) mod rpc;
