//! Organizations: RPCs, commands, SQL, calls to other services, and the purge. The rules are in
//! [`identity_rules::organization`].

pub(crate) mod commands;
pub(crate) mod peers;
pub(crate) mod purge;
pub(crate) mod rpc;
pub(crate) mod store;
mod wire;
