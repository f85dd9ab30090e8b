//! Settings of a process, and the registry of the services of the suite.

pub mod arguments;
pub mod config;
pub mod registry;

pub use config::{BillingProvider, Config, Exporter, OtlpProtocol};
