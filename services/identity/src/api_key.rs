//! API keys: RPCs, commands and SQL. The rules are in [`identity_rules::api_key`].

pub(crate) mod commands;
pub(crate) mod rpc;
pub(crate) mod store;
mod wire;
