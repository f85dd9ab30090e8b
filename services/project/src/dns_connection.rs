//! DNS connections of organizations.

mod commands;
pub(crate) mod rpc;
