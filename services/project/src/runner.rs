//! API for runners: they lease tasks, report progress, finish tasks, and send heartbeats.

mod auth;
mod commands;
mod heartbeat;
pub(crate) mod rpc;
