//! The process that hosts services: from settings through migrations and background jobs to a server, and its
//! graceful shutdown.

pub mod admin;
mod balance;
mod connection;
mod connection_limit;
mod data_dir;
mod database;
pub mod doctor;
mod grpc_web;
mod health;
pub mod healthcheck;
mod host;
mod listener;
mod migrate;
pub mod process;
mod replicas;
pub mod resolver;
mod roles;
mod run;
mod servers;
mod stream_end;
mod telemetry;
pub mod tls;
pub mod web;

/// mimalloc, because glibc's allocator keeps the memory of closed connections, and reduces the throughput of
/// small gRPC messages by about 10 %.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub use balance::channel;
pub use data_dir::{DataDir, default as default_data_dir};
pub use eventing::{NotReady, replica_messages};
pub use host::{Host, Install};
pub use telemetry::Telemetry;
