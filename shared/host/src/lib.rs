//! The process that hosts services: from settings through migrations and background jobs to a server, and its
//! graceful shutdown.

mod connection;
mod data_dir;
mod database;

mod host;
mod listener;
mod migrate;
pub mod process;
mod roles;
mod run;
mod telemetry;
pub mod tls;
pub mod web;

pub use data_dir::{DataDir, default as default_data_dir};
pub use eventing::NotReady;
pub use host::{Host, Install};
pub use run::channel;
pub use telemetry::Telemetry;
