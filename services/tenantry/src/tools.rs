//! Tools for operators: `migrate` and `runner`, and the owner of files that `keys` and `certs` create.

use std::{path::Path, str::FromStr};

use anyhow::Context;
use chassis::{Config, rule::Rules};
use host::{DataDir, Telemetry, channel, process, tls::Tls};
use tokio_util::sync::CancellationToken;

pub(crate) use host::process::print;

use crate::{local_runner, serve::INSTALLS};

/// Runs the database migrations of all services.
pub(crate) async fn migrate(config: Config) -> anyhow::Result<()> {
    process::migrate(config, INSTALLS).await
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
    let project_url = config.service_urls.get(chassis::registry::find("project")?);
    let rules = Rules::load(api::DESCRIPTORS)?;
    let project = channel(project_url, &tls, &rules).context("--project-url")?;
    let (readiness, _health_port) = process::start_health_port(&config, &telemetry).await?;
    let stop = CancellationToken::new();
    let registered = CancellationToken::new();
    let stop_signal = process::stop_signal()?;
    let work =
        local_runner::run(project, data_dir.path(), &config, registered.clone(), stop.clone());
    let background = async {
        tokio::join!(tls.reload_changes(stop.clone()), async {
            registered.cancelled().await;
            readiness.set_ready();
        })
    };
    tokio::pin!(work, background);
    tokio::select! {
        done = &mut work => return done,
        _ = &mut background => {}
        () = stop_signal => {}
    }
    readiness.set_not_ready("the runner stops");
    stop.cancel();
    work.await?;
    tokio::task::spawn_blocking(|| telemetry.stop()).await?;
    Ok(())
}

/// Account that owns a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    uid: u32,
    gid: u32,
}

impl FromStr for Owner {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let numbers = text
            .split_once(':')
            .and_then(|(uid, gid)| Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? }));
        numbers.context("the owner must be two numbers, for example 10001:0")
    }
}

/// Changes the owner of a file, if there is a new one.
pub(crate) fn set_owner(file: &Path, owner: Option<Owner>) -> anyhow::Result<()> {
    let Some(Owner { uid, gid }) = owner else { return Ok(()) };
    std::os::unix::fs::chown(file, Some(uid), Some(gid))
        .with_context(|| format!("cannot change the owner of {} to {uid}:{gid}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_two_numbers() {
        assert_eq!("10001:0".parse::<Owner>().unwrap(), Owner { uid: 10001, gid: 0 });
        for text in ["", "10001", "tenantry:0", "10001:", "-1:0"] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
    }
}
