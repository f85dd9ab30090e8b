//! Background loops of the runner: heartbeats, restarts of programs, disk measurements, and removal of
//! environments that no longer exist.

use std::{sync::Arc, time::Duration};

use api::project::{EnvironmentDomains, EnvironmentReport, HeartbeatRequest};
use primitives::foreign_text::cut_block;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    client::TaskClient, domains::DomainList, driver::Driver, settings::Settings, task::ActiveLeases,
};

/// Interval of heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Interval of the checks for programs that ended unexpectedly.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(2);

/// Maximum number of concurrent passes of these checks.
const RECONCILE_PASSES_MAX: usize = 32;

/// Interval of disk measurements.
const MEASURE_INTERVAL: Duration = Duration::from_secs(2);

/// Delay before a failed heartbeat is retried.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of environments in a heartbeat.
const REPORTS_MAX: usize = 10_000;

/// Maximum size of the failure texts of all reports in a heartbeat, in bytes. A message has at most 4 MiB.
const DETAILS_BYTES_MAX: usize = 1 << 20;

/// The loop that sends heartbeats.
pub(crate) struct Heartbeat {
    pub(crate) client: Arc<dyn TaskClient>,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) settings: Settings,
    pub(crate) leases: Arc<ActiveLeases>,
    /// Cancelled when the first heartbeat has been accepted.
    pub(crate) registered: CancellationToken,
    /// Queue of [`remove_unknown`]: ids of environments that no longer exist.
    pub(crate) unknown_environments: mpsc::Sender<String>,
}

impl Heartbeat {
    /// Sends heartbeats until `stop` is cancelled. The first one registers the server, without which it gets
    /// no tasks. It contains no environment reports, because collecting them would delay the registration.
    pub(crate) async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let is_first = !self.registered.is_cancelled();
            let request = self.build_request(is_first).await;
            let pause = match self.client.send_heartbeat(request).await {
                Ok(response) => {
                    self.registered.cancel();
                    self.leases
                        .apply_revocations(&response.lost_task_ids, &response.cancelled_task_ids);
                    for it in response.rejected_reports {
                        let (environment, reason) = (it.environment_id, it.reason);
                        tracing::warn!(environment, reason, "report of an environment rejected");
                    }
                    let domains = response.environment_domains;
                    self.store_domains(response.domains_version, domains).await;
                    for id in response.unknown_environment_ids {
                        // Ids that do not fit into the queue are sent again with the next response.
                        let _ = self.unknown_environments.try_send(id);
                    }
                    if is_first { Duration::ZERO } else { HEARTBEAT_INTERVAL }
                }
                Err(status) => {
                    let code = status.code();
                    tracing::warn!(?code, error = status.message(), "heartbeat failed");
                    RETRY_INTERVAL
                }
            };
            sleep_unless_stopped(pause, &stop).await;
        }
    }

    /// Stores another version of the custom domains; the next check of the programs serves them.
    async fn store_domains(&self, version: String, domains: Vec<EnvironmentDomains>) {
        let data_dir = &self.settings.data_dir;
        // An older project service has no domains, and no version.
        if version.is_empty() || version == DomainList::read(data_dir).await.version {
            return;
        }
        if let Err(error) = DomainList::new(version, domains).write(data_dir) {
            let error = format!("{error:#}");
            tracing::warn!(error, "custom domains not stored");
        }
    }

    fn apps_domain(&self) -> String {
        self.settings.proxy.as_ref().map(|it| it.apps_domain.clone()).unwrap_or_default()
    }

    async fn build_request(&self, is_first: bool) -> HeartbeatRequest {
        let mut environments = if is_first { vec![] } else { self.driver.reports().await };
        bound_reports(&mut environments);
        let info = self.driver.info();
        HeartbeatRequest {
            runner: self.settings.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capacity: Some(info.capacity),
            isolation: info.isolation,
            limits: info.limits,
            environments,
            tasks: self.leases.list(),
            // The project service ignores the address of a connected server.
            shared_address: self.settings.shared_address(),
            database_address: self.driver.database_address(),
            apps_domain: self.apps_domain(),
            domains_version: DomainList::read(&self.settings.data_dir).await.version,
        }
    }
}

/// Limits the number of reports and the size of their texts together.
fn bound_reports(reports: &mut Vec<EnvironmentReport>) {
    reports.truncate(REPORTS_MAX);
    if reports.iter().map(|it| it.detail.len()).sum::<usize>() <= DETAILS_BYTES_MAX {
        return;
    }
    let bytes_max = DETAILS_BYTES_MAX / reports.len().max(1);
    for report in reports {
        report.detail = cut_block(&report.detail, bytes_max);
    }
}

/// Removes environments that do not exist in the project service, until `stop` is cancelled. Separate from
/// the heartbeats, because deleting many files takes long.
pub(crate) async fn remove_unknown(
    driver: Arc<dyn Driver>,
    leases: Arc<ActiveLeases>,
    mut unknown_environments: mpsc::Receiver<String>,
    stop: CancellationToken,
) {
    loop {
        let id = tokio::select! {
            () = stop.cancelled() => return,
            id = unknown_environments.recv() => id,
        };
        let Some(id) = id else { return };
        // A running task uses the environment's files. A later heartbeat response contains the id again.
        if leases.has_task_of(&id) {
            continue;
        }
        tracing::info!(environment = id, "removing an environment that no longer exists");
        if let Err(error) = driver.destroy(&id).await {
            let error = format!("{error:#}");
            tracing::warn!(environment = id, error, "environment not removed completely");
        }
    }
}

/// Restarts programs that ended unexpectedly, until `stop` is cancelled. Separate from the heartbeats,
/// because a restart takes as long as its program takes to be healthy. A pass does not wait for the restarts
/// of earlier ones.
pub(crate) async fn reconcile(driver: Arc<dyn Driver>, stop: CancellationToken) {
    let mut passes = JoinSet::new();
    while !stop.is_cancelled() {
        while passes.try_join_next().is_some() {}
        if passes.len() < RECONCILE_PASSES_MAX {
            let driver = driver.clone();
            passes.spawn(async move { driver.reconcile().await });
        }
        sleep_unless_stopped(RECONCILE_INTERVAL, &stop).await;
    }
}

/// Measures the disk usage of environments until `stop` is cancelled. Separate from the other loops, because
/// measuring many files takes long.
pub(crate) async fn measure(driver: Arc<dyn Driver>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            () = driver.measure() => {}
        }
        sleep_unless_stopped(MEASURE_INTERVAL, &stop).await;
    }
}

async fn sleep_unless_stopped(pause: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reports_of_a_heartbeat_have_a_limit_together() {
        let report = EnvironmentReport { detail: "x".repeat(1_900), ..Default::default() };
        let mut few = vec![report.clone(); 500];
        bound_reports(&mut few);
        assert!(few.iter().all(|it| it.detail.len() == 1_900));
        let mut many = vec![report; 20_000];
        bound_reports(&mut many);
        assert_eq!(many.len(), REPORTS_MAX);
        assert!(many.iter().map(|it| it.detail.len()).sum::<usize>() <= DETAILS_BYTES_MAX);
    }
}
