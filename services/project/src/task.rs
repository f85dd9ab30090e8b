//! Tasks, for people: get, list, cancel, retry, and follow the log.

pub(crate) mod commands;
pub(crate) mod rpc;
mod watch;
