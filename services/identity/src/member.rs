//! Members: RPCs, commands and SQL. The rules are in [`identity_rules::member`].

pub(crate) mod commands;
pub(crate) mod rpc;
pub(crate) mod store;
mod wire;
