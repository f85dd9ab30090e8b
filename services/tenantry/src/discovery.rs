//! `tenantry discovery`: server reflection and health checks of all services at one address, for a gateway in
//! front of them.
//!
//! A gateway routes a call by the package in its path. The paths of reflection and health checks, `/grpc.…`,
//! are the same for every service, so the gateway routes them to this program. It returns the descriptors of
//! the complete contract, and forwards a health check to the service that it names.

mod health;

use anyhow::{Context, Result};
use api::DESCRIPTORS;
use chassis::Config;
use health::SuiteHealth;
use host::{
    Telemetry, process,
    tls::{self, Tls},
};
use prost_reflect::DescriptorPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;

/// Maximum number of calls in flight on one connection.
const CALLS_PER_CONNECTION_MAX: usize = 256;

/// Serves until SIGTERM or Ctrl-C. Uses --listen, --tls-cert, --tls-key, --tls-ca, the URLs of the services,
/// and the settings of logs and telemetry.
pub(crate) async fn run(config: Config) -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let stop = process::stop_signal()?;
    let telemetry = Telemetry::start("discovery", &config)?;
    let (Some(certificate), Some(key), Some(authority)) =
        (&config.tls_cert, &config.tls_key, &config.tls_ca)
    else {
        anyhow::bail!("discovery requires --tls-cert, --tls-key and --tls-ca");
    };
    let tls = Tls::read(certificate, key, authority)?.without_client_certificate();
    let health = SuiteHealth::new(&config.service_urls, &tls)?;
    let (readiness, _health_port) = process::start_health_port(&config, &telemetry).await?;
    let server = Server::builder()
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .add_service(HealthServer::new(health))
        .add_service(reflection()?.build_v1()?)
        .add_service(reflection()?.build_v1alpha()?);
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("cannot serve on {}", config.listen))?;
    readiness.set_ready();
    tracing::info!(address = %config.listen, "discovery is ready");
    let incoming = tls::incoming(listener, tls.clone());
    tokio::select! {
        served = server.serve_with_incoming_shutdown(incoming, stop) => served?,
        () = tls.reload_changes(CancellationToken::new()) => {}
    }
    tokio::task::spawn_blocking(|| telemetry.stop()).await?;
    Ok(())
}

/// Returns the reflection service of the complete contract.
fn reflection() -> Result<tonic_reflection::server::Builder<'static>> {
    let pool = DescriptorPool::decode(DESCRIPTORS)?;
    let names = pool.services().map(|it| it.full_name().to_owned());
    let names =
        names.filter(|it| it.starts_with("tenantry.")).chain(["grpc.health.v1.Health".into()]);
    let builder = tonic_reflection::server::Builder::configure();
    Ok(names
        .fold(builder, tonic_reflection::server::Builder::with_service_name)
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // With it grpcurl prints error details as JSON instead of base64.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET))
}
