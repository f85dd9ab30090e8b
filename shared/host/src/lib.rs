//! The process that hosts services: from settings through migrations and background jobs to a server, and its
//! graceful shutdown.

mod balance;
mod connection;
mod data_dir;
mod database;
mod health;
pub mod healthcheck;
mod host;
mod listener;
mod migrate;
pub mod process;
mod replicas;
mod roles;
mod run;
mod telemetry;
pub mod tls;
pub mod web;

pub use balance::channel;
pub use data_dir::{DataDir, default as default_data_dir};
pub use host::{Host, Install};
pub use telemetry::Telemetry;
