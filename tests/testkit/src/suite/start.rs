//! Start of a suite: its settings, services and log.

use std::{net::SocketAddr, path::Path};

use chassis::Config;
use host::{DataDir, Host, Telemetry};
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;

use super::Options;
use crate::{database, stripe, warnings};

/// Prints the log of the suite if the environment variable `RUST_LOG` is set; otherwise keeps its newest
/// warnings.
pub(super) fn start_logging() {
    // Both fail for the second suite of a process: the subscriber is already set.
    match std::env::var("RUST_LOG") {
        Ok(log) => drop(Telemetry::start("test", &Config { log, ..database::config() })),
        Err(_) => warnings::keep(),
    }
}

/// Returns a host with the settings of a test.
pub(super) fn host(
    options: &Options,
    database: PgConnectOptions,
    folder: &Path,
    address: SocketAddr,
) -> Host {
    let defaults = database::config_with(&options.arguments);
    let config = Config {
        listen: address,
        invitations_max: options.invitations_max,
        invitation_mails_max: options.invitation_mails_max,
        webhook_exceptions: options.webhook_exceptions.clone(),
        connection_exceptions: options.connection_exceptions.clone(),
        storage_folder: options.storage_folder.clone(),
        webhook_dns: options.webhook_dns,
        cloudflare_url: options.cloudflare_url.clone().unwrap_or(defaults.cloudflare_url.clone()),
        fsck_interval_s: options.fsck_interval_s,
        audit_witnesses: options.witnesses.clone(),
        nats_url: options.nats_url.clone(),
        smtp_url: options.smtp_url.clone().map(Into::into),
        local_repositories: true,
        // Full isolation needs root; without it deployed code runs in a weaker sandbox.
        allow_weak_isolation: !rustix::process::geteuid().is_root(),
        // A build that exceeds it must not take all memory of the machine.
        runner_build_memory_mb: Some(1_024),
        nats_stream_replicas: or_default(
            options.nats_stream_replicas,
            defaults.nats_stream_replicas,
        ),
        nats_patience_s: or_default(options.nats_patience_s, defaults.nats_patience_s),
        mail_console: false,
        created_orgs_max: or_default(options.created_orgs_max, 1_000),
        sign_ins_max: options.sign_ins_max,
        trusted_proxies: options.trusted_proxies.clone(),
        oidc_issuer: options.oidc_issuer.clone(),
        oidc_client_id: options.oidc_issuer.is_some().then(|| "tenantry".to_owned()),
        oidc_client_secret: options.oidc_issuer.is_some().then(|| "secret".into()),
        in_flight_max: or_default(options.in_flight_max, defaults.in_flight_max),
        connections_max: or_default(options.connections_max, defaults.connections_max),
        connection_age_ms_max: or_default(
            options.connection_age_ms_max,
            defaults.connection_age_ms_max,
        ),
        web_origins: options.web_origins.clone(),
        open_calls_per_org_max: or_default(
            options.open_calls_per_org_max,
            defaults.open_calls_per_org_max,
        ),
        ..defaults
    };
    let config = match &options.stripe_url {
        Some(url) => stripe::configure(config, folder, url),
        None => config,
    };
    let data = DataDir::open(Some(folder)).expect("the data directory can be opened");
    // If the tests run as root, deployed code runs as another account, which must be able to enter it.
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("the mode of the data directory can be set");
    Host::new(config, database, data).expect("the settings are valid")
}

/// A data directory for a replica, with the keys of another one.
pub(super) fn new_replica_folder(other: &Path) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for key in ["secret.key", "audit.key"] {
        std::fs::copy(other.join(key), folder.path().join(key)).expect("a key");
    }
    folder
}

/// A setting, or its default for 0.
fn or_default<T: Default + PartialEq>(value: T, default: T) -> T {
    if value == T::default() { default } else { value }
}

/// Adds every service to a host.
pub(super) fn install(mut host: Host) -> Host {
    for install in tenantry::INSTALLS {
        install(&mut host).expect("a service installs");
    }
    host
}
