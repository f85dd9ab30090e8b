//! The story of the suite, played against a running one: an organization grows, a person is invited, a
//! project is deployed, a right is taken away, and a log proves all of it.

mod mailbox;
mod manual;
mod record;
mod sample;
mod story;
mod voice;

use std::path::PathBuf;

use anyhow::{Context, Result};
use chassis::host::default_data_dir;

use crate::client::Client;

pub use mailbox::Mailbox;
pub use story::{Played, play};
pub use voice::Voice;

/// Where the suite is.
#[derive(clap::Args)]
pub struct Arguments {
    /// The all-in-one, or where every service is reached.
    #[arg(long, env = "TENANTRY_ENDPOINT", default_value = "http://127.0.0.1:50051")]
    endpoint: String,
    /// The data directory of the suite, in whose folder `mail` the mails are. Default: as for the suite.
    #[arg(long, env = "TENANTRY_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The authority that signed the server's certificate (PEM).
    #[arg(long, env = "TENANTRY_TLS_CA")]
    tls_ca: Option<PathBuf>,
}

/// A way to each service.
pub struct Services {
    /// The identity service.
    pub identity: Client,
    /// The project service.
    pub project: Client,
    /// The invitation service.
    pub invitation: Client,
    /// The audit service.
    pub audit: Client,
}

impl Services {
    /// All services at one place.
    pub fn at_one(client: &Client) -> Self {
        let client = || client.clone();
        Self { identity: client(), project: client(), invitation: client(), audit: client() }
    }
}

/// Plays the story and shows it.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let authority = arguments.tls_ca.as_ref().map(std::fs::read_to_string).transpose();
    let authority = authority.context("cannot read the authority")?;
    let client = Client::connect(&arguments.endpoint, authority.as_deref()).await?;
    let data_dir = match &arguments.data_dir {
        Some(path) => path.clone(),
        None => default_data_dir()?,
    };
    let mailbox = Mailbox::new(vec![data_dir.join("mail")]);
    let played = play(&Services::at_one(&client), &mailbox, Voice::loud()).await?;
    played.farewell(&arguments.endpoint)
}
