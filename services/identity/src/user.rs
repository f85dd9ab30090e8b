//! Accounts: RPCs, commands and SQL. The rules are in [`identity_rules::user`].

pub(crate) mod commands;
pub(crate) mod rpc;
pub(crate) mod store;
