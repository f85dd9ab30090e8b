//! The verb `healthcheck` of every program, for the health checks of containers.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, ensure};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Arguments of `healthcheck`.
#[derive(clap::Args)]
pub struct Healthcheck {
    /// URL of a server to ask by gRPC. Default: the health port, if there is one, else the port of --listen
    /// on this machine.
    #[arg(long, env = "TENANTRY_ENDPOINT")]
    endpoint: Option<String>,
    /// Full name of a gRPC service; empty: the complete process.
    #[arg(long, default_value = "")]
    service: String,
    /// CA certificate (PEM) that signed the server's certificate.
    #[arg(long, env = "TENANTRY_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// Address of the health port.
    #[arg(long, env = "TENANTRY_HEALTH_LISTEN")]
    health_listen: Option<SocketAddr>,
    /// Address that the process serves on.
    #[arg(long, env = "TENANTRY_LISTEN", default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
}

/// Fails unless the process is ready.
pub async fn run(arguments: Healthcheck) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match arguments.health_listen {
        Some(address) if arguments.endpoint.is_none() && arguments.service.is_empty() => {
            health::check(address).await?;
        }
        _ => check_by_grpc(arguments).await?,
    }
    crate::process::print("SERVING\n")
}

async fn check_by_grpc(arguments: Healthcheck) -> anyhow::Result<()> {
    let scheme = if arguments.tls_ca.is_some() { "https" } else { "http" };
    let own_port = || format!("{scheme}://localhost:{}", arguments.listen.port());
    let url = arguments.endpoint.unwrap_or_else(own_port);
    let mut endpoint = Endpoint::from_shared(url.clone())?;
    if let Some(path) = &arguments.tls_ca {
        let authority =
            Certificate::from_pem(std::fs::read(path).context("cannot read the CA certificate")?);
        endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(authority))?;
    }
    let channel = endpoint.connect().await;
    let channel = channel.with_context(|| format!("cannot connect to {url}"))?;
    let request = HealthCheckRequest { service: arguments.service };
    let response = HealthClient::new(channel).check(request).await;
    let response = response.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let status = response.into_inner().status();
    ensure!(status == ServingStatus::Serving, "the server reports {}", status.as_str_name());
    Ok(())
}
