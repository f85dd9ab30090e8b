//! API for runners: they lease tasks, report progress, finish tasks, and send heartbeats.

pub(crate) mod rpc;
pub(crate) mod wire;
