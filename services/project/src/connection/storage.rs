//! Storage connections: their API, and clients of the storage.

pub(crate) mod client;
mod commands;
mod folder;
pub(crate) mod object;
pub(crate) mod rpc;
mod s3;
mod sftp;
