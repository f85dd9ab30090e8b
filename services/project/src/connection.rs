//! Connections of organizations to other systems.

mod commands;
pub(crate) mod host_api;
mod listing;
pub(crate) mod probe;
pub(crate) mod rpc;
