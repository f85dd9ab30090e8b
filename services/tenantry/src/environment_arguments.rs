//! Arguments of the commands about an environment: the endpoint, the credential and the project.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::client::Client;

/// Arguments with which an environment is reached.
#[derive(clap::Args)]
pub(crate) struct EnvironmentArguments {
    /// URL of the all-in-one, of a gateway, or of the project service.
    #[arg(long, env = "TENANTRY_ENDPOINT", default_value = "http://127.0.0.1:50051")]
    endpoint: String,
    /// CA certificate (PEM) that signed the certificate of the endpoint.
    #[arg(long, env = "TENANTRY_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// Token of a session, or an API key.
    #[arg(long, env = "TENANTRY_TOKEN", hide_env_values = true)]
    token: String,
    /// Id of the organization.
    #[arg(long, env = "TENANTRY_ORG")]
    pub(crate) org: String,
    /// Id of the project.
    #[arg(long, env = "TENANTRY_PROJECT")]
    pub(crate) project: String,
}

impl EnvironmentArguments {
    /// Returns a client of the endpoint with the credential.
    pub(crate) async fn connect(&self) -> Result<Client> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ca_certificate = self.tls_ca.as_ref().map(std::fs::read_to_string).transpose();
        let ca_certificate = ca_certificate.context("cannot read the CA certificate")?;
        let client = Client::connect(&self.endpoint, ca_certificate.as_deref()).await?;
        Ok(client.with_token(&self.token))
    }
}
