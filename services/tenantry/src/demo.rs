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
pub use scenario::{Source, run_scenario, run_scenario_with};

/// Arguments of `demo`.
#[derive(clap::Args)]
pub struct Arguments {
    /// URL of the all-in-one, or of a gateway for all services.
    #[arg(long, env = "TENANTRY_ENDPOINT", default_value = "http://127.0.0.1:50051")]
    endpoint: String,
    /// URL of the identity service, if it is not at --endpoint.
    #[arg(long, env = "TENANTRY_IDENTITY_URL")]
    identity_url: Option<String>,
    /// URL of the project service, if it is not at --endpoint.
    #[arg(long, env = "TENANTRY_PROJECT_URL")]
    project_url: Option<String>,
    /// URL of the invitation service, if it is not at --endpoint.
    #[arg(long, env = "TENANTRY_INVITATION_URL")]
    invitation_url: Option<String>,
    /// URL of the audit service, if it is not at --endpoint.
    #[arg(long, env = "TENANTRY_AUDIT_URL")]
    audit_url: Option<String>,
    /// CA certificate (PEM) that signed the certificates of the services.
    #[arg(long, env = "TENANTRY_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// URL of the suite's mail catcher, a MailDev server, for example `http://localhost:1080`.
    #[arg(long, env = "TENANTRY_MAIL_API", conflicts_with = "mail_dir")]
    mail_api: Option<String>,
    /// Directories with the suite's mails, with commas between them. Default: `mail` in --data-dir.
    #[arg(long, env = "TENANTRY_MAIL_DIR", value_delimiter = ',')]
    mail_dir: Vec<PathBuf>,
    /// Data directory of the suite. Default: the suite's default.
    #[arg(long, env = "TENANTRY_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Repository to deploy. Default: a sample that is created in --work-dir, which the runner must be able
    /// to read at the same path.
    #[arg(long, env = "TENANTRY_DEMO_REPOSITORY")]
    repository: Option<String>,
    /// Directory for the sample repository and the proof. Default: that for temporary files.
    #[arg(long, env = "TENANTRY_DEMO_WORK_DIR")]
    work_dir: Option<PathBuf>,
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
    let connect = async |url: &Option<String>| {
        let url = url.as_ref().unwrap_or(&arguments.endpoint);
        Client::connect(url, ca_certificate.as_deref()).await
    };
    let services = Services {
        identity: connect(&arguments.identity_url).await?,
        project: connect(&arguments.project_url).await?,
        invitation: connect(&arguments.invitation_url).await?,
        audit: connect(&arguments.audit_url).await?,
    };
    let mailbox = match (arguments.mail_api, arguments.mail_dir, arguments.data_dir) {
        (Some(url), ..) => Mailbox::Api(url),
        (None, folders, _) if !folders.is_empty() => Mailbox::Folders(folders),
        (None, _, Some(data_dir)) => Mailbox::Folders(vec![data_dir.join("mail")]),
        (None, _, None) => Mailbox::Folders(vec![default_data_dir()?.join("mail")]),
    };
    let source = Source { repository: arguments.repository, work_dir: arguments.work_dir };
    let outcome = run_scenario_with(&services, &mailbox, Console::stdout(), source).await?;
    outcome.print_next_steps(arguments.audit_url.as_ref().unwrap_or(&arguments.endpoint))
}
