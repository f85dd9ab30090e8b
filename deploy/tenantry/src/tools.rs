//! Small tools of operators.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, ensure};
use chassis::{
    Config, Host,
    host::{DataDir, channel},
    process,
    telemetry::Telemetry,
    tls::Tls,
};
use sqlx::postgres::PgConnectOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::serve::INSTALLS;

/// Prints a text.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Brings the schemas of all services up to date.
pub(crate) async fn migrate(config: Config) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = DataDir::open(config.data_dir.as_deref())?;
    let (options, postgres) = process::database(&config, &folder).await?;
    let migrated = migrate_all(config, options, folder).await;
    if let Some(postgres) = postgres {
        tokio::task::spawn_blocking(|| postgres.stop()).await?;
    }
    migrated?;
    print("every schema is up to date\n")
}

async fn migrate_all(
    config: Config,
    options: PgConnectOptions,
    folder: DataDir,
) -> anyhow::Result<()> {
    let mut host = Host::new(config, options, folder)?;
    for install in INSTALLS {
        install(&mut host)?;
    }
    host.migrate().await
}

/// A question to a server.
#[derive(clap::Args)]
pub(crate) struct Healthcheck {
    /// Where the server is.
    #[arg(long, env = "TENANTRY_ENDPOINT", default_value = "http://127.0.0.1:50051")]
    endpoint: String,
    /// A service's full name; empty for the whole process.
    #[arg(long, default_value = "")]
    service: String,
    /// The authority that signed the server's certificate (PEM).
    #[arg(long, env = "TENANTRY_TLS_CA")]
    tls_ca: Option<PathBuf>,
}

/// Ends well only if the server says SERVING.
pub(crate) async fn healthcheck(it: Healthcheck) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut endpoint = Endpoint::from_shared(it.endpoint.clone())?;
    if let Some(path) = &it.tls_ca {
        let authority =
            Certificate::from_pem(std::fs::read(path).context("cannot read the authority")?);
        endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(authority))?;
    }
    let channel = endpoint.connect().await;
    let channel = channel.with_context(|| format!("nobody answers at {}", it.endpoint))?;
    let request = HealthCheckRequest { service: it.service };
    let answer = HealthClient::new(channel).check(request).await;
    let status =
        answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?.into_inner().status();
    ensure!(status == ServingStatus::Serving, "the server says {}", status.as_str_name());
    print("SERVING\n")
}

/// A runner as a process of its own.
pub(crate) async fn runner(config: Config) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let telemetry = Telemetry::start("runner", &config)?;
    let folder = DataDir::open(config.data_dir.as_deref())?;
    let files = (&config.tls_cert, &config.tls_key, &config.tls_ca);
    let (Some(certificate), Some(key), Some(authority)) = files else {
        anyhow::bail!("a runner proves itself with --tls-cert, --tls-key and --tls-ca");
    };
    let project = channel(&config.project_url, &Tls::read(certificate, key, authority)?)?;
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let stopping = stop.clone();
    let settings = runner::Settings::shared(folder.path().join("runner"), &config)?;
    let work = runner::run_shared(project, settings, stop);
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    stopping.cancel();
    work.await?;
    tokio::task::spawn_blocking(|| telemetry.stop()).await?;
    Ok(())
}
