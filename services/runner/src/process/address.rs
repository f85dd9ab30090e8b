//! Addresses of environments behind the proxy: host names, routes, and the end of connections to a replaced
//! program.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use api::project::Lease;
use primitives::hostname;
use tokio::time::{Instant, sleep};

use super::{
    Processes,
    directory::EnvironmentDir,
    listener,
    process_tree::ProcessTree,
    record::{DesiredState, EnvironmentRecord},
};
use crate::{
    domains::DomainList,
    driver::{EnvironmentHostname, ProgressReporter},
    proxy::{PathUpstream, Route, Target, Unavailable, Upstreams},
    recipe::PathRoute,
    settings::Tls,
};

/// Longest wait for the end of the connections to a replaced program.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Name of the file with the host names of an environment.
const HOSTNAMES: &str = "hostnames.json";

impl Processes {
    /// Stores the host name of a lease, which its environment keeps while no program runs. Does nothing
    /// before the directory of the environment exists.
    pub(super) async fn store_hostname(
        &self,
        environment: &EnvironmentDir,
        lease: &Lease,
    ) -> Result<()> {
        let hostnames: Vec<_> =
            Some(&lease.hostname).filter(|it| hostname::is_valid(it)).into_iter().collect();
        let is_stored = hostnames.iter().copied().eq(&hostnames_of(environment).await);
        if is_stored || !environment.path().exists() {
            return Ok(());
        }
        environment.write_json(HOSTNAMES, &hostnames).await
    }

    /// Returns true if the environment of a lease is reached through the proxy.
    pub(super) fn is_proxied(&self, lease: &Lease) -> bool {
        self.proxy.is_some() && !lease.hostname.is_empty()
    }

    /// Returns the URL of an environment behind the proxy; `None` if it is not reached through one.
    pub(super) async fn proxied_url(&self, environment: &EnvironmentDir) -> Option<String> {
        let proxy = self.settings.proxy.as_ref()?;
        let hostname = hostnames_of(environment).await.into_iter().next()?;
        let (scheme, port, default_port) = match proxy.tls {
            Tls::Off => ("http", proxy.http_port, 80),
            Tls::Internal | Tls::Acme { .. } | Tls::AcmeDns(_) => ("https", proxy.https_port, 443),
        };
        let port = if port == default_port { String::new() } else { format!(":{port}") };
        Some(format!("{scheme}://{hostname}{port}"))
    }

    /// Makes the proxy serve what the records of all environments say. Also starts a proxy that has ended. An
    /// error is logged: the next call, a few seconds later, tries again.
    pub(super) async fn sync_proxy(&self) {
        let Some(proxy) = &self.proxy else { return };
        // The records are read while the proxy is locked, so that no older state follows a newer one.
        let mut proxy = proxy.lock().await;
        let routes = self.routes().await;
        if let Err(error) = proxy.apply(&routes).await {
            let error = format!("{error:#}");
            tracing::warn!(error, "environments are not served as they should be");
        }
    }

    /// Returns the routes of all environments with host names, and of their custom domains.
    pub(super) async fn routes(&self) -> Vec<Route> {
        let mut routes = vec![];
        let domains = DomainList::read(&self.settings.data_dir).await;
        for environment in self.list_environments().await {
            let mut hostnames = hostnames_of(&environment).await;
            if !hostnames.is_empty() {
                hostnames.extend_from_slice(domains.of(&environment.id().to_string()));
                let target = self.target(&environment).await;
                routes.push(Route { environment_id: environment.id(), hostnames, target });
            }
        }
        // Sorted, so that equal states have equal configurations.
        routes.sort_by(|one, other| one.hostnames.cmp(&other.hostnames));
        routes
    }

    /// Returns the host names of all environments.
    pub(super) async fn environment_hostnames(&self) -> Vec<EnvironmentHostname> {
        let mut all = vec![];
        for environment in self.list_environments().await {
            let environment_id = environment.id().to_string();
            let of =
                |hostname| EnvironmentHostname { environment_id: environment_id.clone(), hostname };
            all.extend(hostnames_of(&environment).await.into_iter().map(of));
        }
        all
    }

    async fn target(&self, environment: &EnvironmentDir) -> Target {
        let record = environment.record().await;
        if let Some(unavailable) = unavailable(&record) {
            return Target::Unavailable(unavailable);
        }
        let container = record.process.as_ref().and_then(ProcessTree::container);
        let upstreams = async {
            let Some(container) = container else {
                let network = self.sandbox.network.attach(environment).await?;
                let address = SocketAddr::new(network.address, record.port);
                return anyhow::Ok(Upstreams { address, paths: vec![] });
            };
            let of_route = |it: PathRoute| PathUpstream {
                address: SocketAddr::new(container.address.ip(), it.port),
                path: it.path,
            };
            let paths = self.path_routes(environment).await.into_iter().map(of_route).collect();
            Ok(Upstreams { address: container.address, paths })
        };
        match upstreams.await {
            Ok(upstreams) => Target::Program(upstreams),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(environment = %environment.id(), error, "environment not reachable");
                Target::Unavailable(Unavailable::NoConnection)
            }
        }
    }

    /// Returns the address at which this machine reaches a program.
    pub(super) async fn program_address(
        &self,
        environment: &EnvironmentDir,
        process: &ProcessTree,
        port: u16,
    ) -> Result<SocketAddr> {
        if let Some(container) = process.container() {
            return Ok(container.address);
        }
        let network = self.sandbox.network.attach(environment).await?;
        Ok(SocketAddr::new(network.address, port))
    }

    /// Makes a started program the one that serves: directs requests to it, waits for the end of the
    /// connections to the replaced one, and stops that. `previous_port`: port of the replaced program.
    pub(super) async fn switch_program(
        &self,
        environment: &EnvironmentDir,
        record: &mut EnvironmentRecord,
        previous_port: u16,
        report: &ProgressReporter,
    ) -> Result<()> {
        environment.write_record(record).await?;
        environment.clear_starting_process().await;
        self.sync_proxy().await;
        if let Some(previous) = record.previous.clone() {
            if previous.is_alive() {
                self.drain(environment, &previous, previous_port, report).await;
            }
            previous.stop().await;
            self.release_other_ports(environment, record.port).await;
        }
        record.previous = None;
        environment.write_record(record).await?;
        environment.remove_other_sandboxes(record).await?;
        self.remove_other_containers(environment, record).await;
        self.sandbox.limiter.remove_empty(&environment.id().to_string());
        Ok(())
    }

    /// Waits until a replaced program has no connection, at most [`DRAIN_TIMEOUT`].
    async fn drain(
        &self,
        environment: &EnvironmentDir,
        process: &ProcessTree,
        port: u16,
        report: &ProgressReporter,
    ) {
        if self.proxy.is_none() || hostnames_of(environment).await.is_empty() {
            return;
        }
        let Ok(address) = self.program_address(environment, process, port).await else { return };
        let started = Instant::now();
        let mut is_first = true;
        while listener::has_connections(address, process).await {
            if started.elapsed() > DRAIN_TIMEOUT {
                let line = "open connections to the replaced program are closed";
                report.log(vec![line.to_owned()]).await;
                return;
            }
            if std::mem::take(&mut is_first) {
                let line = "waiting for the end of connections to the replaced program";
                report.log(vec![line.to_owned()]).await;
            }
            sleep(DRAIN_POLL_INTERVAL).await;
        }
    }
}

/// Returns the host names of an environment, the one of its URL first; none if it has no URL of the proxy.
pub(super) async fn hostnames_of(environment: &EnvironmentDir) -> Vec<String> {
    environment.read_json(HOSTNAMES).await.unwrap_or_default()
}

/// Returns the page for an environment; `None` if its program serves.
fn unavailable(record: &EnvironmentRecord) -> Option<Unavailable> {
    match record.desired {
        DesiredState::Absent => Some(Unavailable::NotDeployed),
        DesiredState::Stopped => Some(Unavailable::Stopped),
        DesiredState::Paused => Some(Unavailable::Paused),
        DesiredState::Running if !record.failure.is_empty() => Some(Unavailable::Failed),
        // Also while the program is restarted: the proxy holds requests for some seconds.
        DesiredState::Running => None,
    }
}
