//! Tools for operators: `migrate`, `healthcheck` and `runner`.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, ensure};
use chassis::Config;
use host::{DataDir, Host, Telemetry, channel, process, tls::Tls};
use sqlx::postgres::PgConnectOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{local_runner, serve::INSTALLS};

/// Prints text to standard output.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Runs the database migrations of all services.
pub(crate) async fn migrate(config: Config) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let data_dir = DataDir::open(config.data_dir.as_deref())?;
    let (options, private_server) = process::database(&config, &data_dir).await?;
    let migrated = migrate_all(config, options, data_dir).await;
    if let Some(server) = private_server {
        tokio::task::spawn_blocking(|| server.stop()).await?;
    }
    migrated?;
    print("the schemas of all services are up to date\n")
}

async fn migrate_all(
    config: Config,
    options: PgConnectOptions,
    data_dir: DataDir,
) -> anyhow::Result<()> {
    let mut host = Host::new(config, options, data_dir)?;
    for install in INSTALLS {
        install(&mut host)?;
    }
    host.migrate().await
}

/// Arguments of `healthcheck`.
#[derive(clap::Args)]
pub(crate) struct Healthcheck {
    /// URL of the server.
    #[arg(long, env = "TENANTRY_ENDPOINT", default_value = "http://127.0.0.1:50051")]
    endpoint: String,
    /// Full name of a gRPC service; empty: the complete process.
    #[arg(long, default_value = "")]
    service: String,
    /// CA certificate (PEM) that signed the server's certificate.
    #[arg(long, env = "TENANTRY_TLS_CA")]
    tls_ca: Option<PathBuf>,
}

/// Fails unless the server reports SERVING.
pub(crate) async fn healthcheck(arguments: Healthcheck) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut endpoint = Endpoint::from_shared(arguments.endpoint.clone())?;
    if let Some(path) = &arguments.tls_ca {
        let authority =
            Certificate::from_pem(std::fs::read(path).context("cannot read the CA certificate")?);
        endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(authority))?;
    }
    let channel = endpoint.connect().await;
    let channel = channel.with_context(|| format!("cannot connect to {}", arguments.endpoint))?;
    let request = HealthCheckRequest { service: arguments.service };
    let response = HealthClient::new(channel).check(request).await;
    let response = response.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let status = response.into_inner().status();
    ensure!(status == ServingStatus::Serving, "the server reports {}", status.as_str_name());
    print("SERVING\n")
}

/// Runs a runner as a process of its own, until SIGTERM or Ctrl-C.
pub(crate) async fn runner(config: Config) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let telemetry = Telemetry::start("runner", &config)?;
    let data_dir = DataDir::open(config.data_dir.as_deref())?;
    let tls_files = (&config.tls_cert, &config.tls_key, &config.tls_ca);
    let (Some(certificate), Some(key), Some(authority)) = tls_files else {
        anyhow::bail!("a runner requires --tls-cert, --tls-key and --tls-ca to authenticate");
    };
    let tls = Tls::read(certificate, key, authority)?;
    let project_service = chassis::registry::find("project")?;
    let project_channel = channel(config.service_urls.get(project_service), &tls)?;
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let work = local_runner::run(project_channel, data_dir.path(), &config, stop.clone());
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    stop.cancel();
    work.await?;
    tokio::task::spawn_blocking(|| telemetry.stop()).await?;
    Ok(())
}
