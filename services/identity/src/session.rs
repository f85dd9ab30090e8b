//! Sessions: RPCs, sign-in and SQL. The rules are in [`identity_rules::session`].

pub(crate) mod commands;
pub(crate) mod rpc;
pub(crate) mod store;
pub(crate) mod support;
mod wire;
