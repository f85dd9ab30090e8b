//! Connections of organizations to other systems.

mod commands;
pub(crate) mod probe;
pub(crate) mod rpc;
