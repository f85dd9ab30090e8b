//! Commands that people run beside the program of an environment.

pub(crate) mod rpc;
pub(crate) mod session;
