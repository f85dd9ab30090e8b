//! Settings of a process, and the registry of the services of the suite.

pub mod arguments;
pub mod config;
mod parse;
pub mod registry;
pub mod retention;
pub mod runner_docker;
pub mod runner_proxy;

pub use config::{BillingProvider, Config, Exporter, OtlpProtocol};
pub use runner_docker::{DriverKind, RecipeImage, RunnerDocker};
pub use runner_proxy::{RunnerProxy, TlsMode};
