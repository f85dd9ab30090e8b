//! `tenantry demo`: runs a scenario against a running suite and prints each call. The scenario creates an
//! organization, invites a member, deploys a project, revokes access, and verifies the audit log.

mod access_check;
mod audit_check;
mod console;
mod mailbox;
mod outcome;
mod sample;
mod scenario;
mod self_check;

use std::path::PathBuf;

use anyhow::{Context, Result};
use host::default_data_dir;

use crate::client::Client;

pub use console::Console;
pub use mailbox::Mailbox;
pub use outcome::Outcome;
pub use scenario::run_scenario;

/// Arguments of `demo`.
#[derive(clap::Args)]
pub struct Arguments {
    /// URL of the all-in-one, or of a proxy for all services.
    #[arg(long, env = "TENANTRY_ENDPOINT", default_value = "http://127.0.0.1:50051")]
    endpoint: String,
    /// Data directory of the suite, whose subdirectory `mail` contains its mails. Default: the suite's
    /// default.
    #[arg(long, env = "TENANTRY_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// CA certificate (PEM) that signed the server's certificate.
    #[arg(long, env = "TENANTRY_TLS_CA")]
    tls_ca: Option<PathBuf>,
}

/// Clients of all services.
pub struct Services {
    /// Client of the identity service.
    pub identity: Client,
    /// Client of the project service.
    pub project: Client,
    /// Client of the invitation service.
    pub invitation: Client,
    /// Client of the audit service.
    pub audit: Client,
}

impl Services {
    /// Returns the clients of services that share one URL.
    pub fn all_in_one(client: &Client) -> Self {
        let client = || client.clone();
        Self { identity: client(), project: client(), invitation: client(), audit: client() }
    }
}

/// Runs the scenario and prints it.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ca_certificate = arguments.tls_ca.as_ref().map(std::fs::read_to_string).transpose();
    let ca_certificate = ca_certificate.context("cannot read the CA certificate")?;
    let client = Client::connect(&arguments.endpoint, ca_certificate.as_deref()).await?;
    let data_dir = match arguments.data_dir {
        Some(path) => path,
        None => default_data_dir()?,
    };
    let mailbox = Mailbox::new(vec![data_dir.join("mail")]);
    let services = Services::all_in_one(&client);
    let outcome = run_scenario(&services, &mailbox, Console::stdout()).await?;
    outcome.print_next_steps(&arguments.endpoint)
}
