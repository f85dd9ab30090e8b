//! Second factors: RPCs, commands and SQL. The rules are in [`identity_rules::second_factor`].

pub(crate) mod commands;
pub(crate) mod rpc;
pub(crate) mod store;
