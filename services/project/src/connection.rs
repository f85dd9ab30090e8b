//! Connections of organizations to other systems.

pub(crate) mod address;
mod commands;
pub(crate) mod host_api;
mod listing;
pub(crate) mod probe;
pub(crate) mod rpc;
pub(crate) mod storage;
