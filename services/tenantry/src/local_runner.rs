//! Runner of a shared server: in the process of the all-in-one, or as a process of its own
//! (`tenantry runner`). The runner itself is the crate `runner`, which does not depend on the server stack.

use std::path::Path;

use anyhow::{Context, Result};
use api::project::runner_service_client::RunnerServiceClient;
use chassis::{Config, channel::RemoteService};
use host::{
    Host,
    doctor::{Level, Report},
};
use runner::{DockerArguments, IsolationPolicy, NetworkSettings, ProxyArguments, Settings};
use secrecy::ExposeSecret;
use settings::{DriverKind, RunnerDocker, RunnerProxy};
use tokio_util::sync::CancellationToken;

/// Adds a runner to a process. The process becomes ready when the project service has accepted the runner's
/// first heartbeat, so that environments can be deployed as soon as it is ready.
pub(crate) fn install(host: &mut Host) -> Result<()> {
    let project = RunnerServiceClient::new(host.client("runner", "project"));
    let config = host.config();
    let docker = &config.runner_docker;
    // The all-in-one is for trials: it uses an engine only if `--runner-driver` names it.
    let driver = docker.runner_driver.or(Some(DriverKind::Process));
    let docker = RunnerDocker { runner_driver: driver, ..docker.clone() };
    let config = Config { runner_docker: docker, ..config.clone() };
    let settings = runner_settings(host.data_dir().path(), &config)?;
    let registered = CancellationToken::new();
    host.await_before_ready(registered.clone());
    host.task("the runner", move |stop| runner::run(project, settings, registered, stop));
    Ok(())
}

/// Runs a runner until `stop` is cancelled; cancels `registered` when the project service has accepted its
/// first heartbeat. `project` authenticates it by its client certificate.
pub(crate) async fn run(
    project: RemoteService,
    data_dir: &Path,
    config: &Config,
    registered: CancellationToken,
    stop: CancellationToken,
) -> Result<()> {
    let settings = runner_settings(data_dir, config)?;
    let project = RunnerServiceClient::new(project);
    runner::run(project, settings, registered, stop).await
}

/// Checks the isolation of deployed code on this machine.
pub(crate) async fn examine(config: &Config, report: &mut Report) {
    let data_dir = config.data_dir.clone().map_or_else(host::default_data_dir, Ok);
    let settings = data_dir.and_then(|it| runner_settings(&it, config));
    let examined = match settings {
        Ok(settings) => runner::examine_isolation(&settings).await,
        Err(error) => Err(error),
    };
    let Some(isolation) = report.step("isolation", examined, |it| it.description.clone()) else {
        return;
    };
    if !isolation.missing.is_empty() {
        let message = format!("deployed code runs without {}", isolation.missing.join(", "));
        report.add("isolation", Level::Warning, message);
    }
}

/// Returns the settings of a runner.
fn runner_settings(data_dir: &Path, config: &Config) -> Result<Settings> {
    let data_dir = data_dir.join("runner");
    Ok(Settings {
        name: read_or_create_name(&data_dir)?,
        data_dir,
        bind: config.runner_bind,
        address: config.runner_address.clone(),
        database_url: config.runner_database_url.as_ref().map(|it| it.expose_secret().to_owned()),
        isolation: if config.allow_weak_isolation {
            IsolationPolicy::BestEffort
        } else {
            IsolationPolicy::Required
        },
        network: NetworkSettings {
            addresses: config.runner_network,
            reachable: config.runner_reachable_networks.clone(),
        },
        build_memory_mb: config.runner_build_memory_mb,
        proxy: proxy_arguments(config.runner_proxy.clone()).checked()?,
        docker: docker_arguments(config.runner_docker.clone()).settings(),
    })
}

fn docker_arguments(it: RunnerDocker) -> DockerArguments {
    DockerArguments {
        driver: it.runner_driver,
        docker_host: it.runner_docker_host,
        base_image: it.runner_base_image,
        registry_credentials: it.runner_registry_credentials,
        recipes: it.runner_recipes,
        recipe_images: it.runner_recipe_images,
    }
}

fn proxy_arguments(it: RunnerProxy) -> ProxyArguments {
    ProxyArguments {
        apps_domain: it.runner_apps_domain,
        caddy: it.runner_caddy,
        http_port: it.runner_http_port,
        https_port: it.runner_https_port,
        tls: it.runner_tls,
        acme_email: it.runner_acme_email,
        acme_directory: it.runner_acme_directory,
        acme_ca: it.runner_acme_ca,
    }
}

/// Returns the name of the runner, which identifies its server: a random name, stored in the runner's
/// directory on the first start.
fn read_or_create_name(data_dir: &Path) -> Result<String> {
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("cannot create {}", data_dir.display()))?;
    let file = data_dir.join("name");
    if let Ok(name) = std::fs::read_to_string(&file) {
        return Ok(name.trim().to_owned());
    }
    let name = format!("shared-{}", &chassis::id::new().to_string()[24..]);
    std::fs::write(&file, &name).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_keeps_its_name_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("runner");
        let name = read_or_create_name(&data_dir).unwrap();
        assert!(name.starts_with("shared-") && name.len() == 19, "{name}");
        assert_eq!(read_or_create_name(&data_dir).unwrap(), name);
    }
}
