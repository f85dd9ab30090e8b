//! Heartbeats: every few seconds a runner reports what its machine has and how its environments are.

use std::{sync::Arc, time::Duration};

use api::project::HeartbeatRequest;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{Settings, client::TaskClient, driver::Driver, task::ActiveLeases};

/// Time between two heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Time between two looks at what should run.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(2);

/// Time between two measurements of files.
const MEASURE_INTERVAL: Duration = Duration::from_secs(2);

/// Time until the next try after a heartbeat failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Sends heartbeats.
pub(crate) struct Heartbeat {
    pub(crate) client: Arc<dyn TaskClient>,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) settings: Settings,
    pub(crate) leases: Arc<ActiveLeases>,
    /// Cancelled after the first heartbeat.
    pub(crate) registered: CancellationToken,
    /// Environments to remove, for [`remove_unknown`].
    pub(crate) unknown: mpsc::Sender<String>,
}

impl Heartbeat {
    /// Sends heartbeats until `stop`. The first has no reports, because they take a while.
    pub(crate) async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let is_first = !self.registered.is_cancelled();
            let request = self.build_request(is_first).await;
            let pause = match self.client.heartbeat(request).await {
                Ok(response) => {
                    self.registered.cancel();
                    let (lost, cancelled) = (&response.lost_task_ids, &response.cancelled_task_ids);
                    self.leases.apply_revocations(lost, cancelled);
                    for id in response.unknown_environment_ids {
                        // Ids that do not fit come again with the next heartbeat.
                        let _ = self.unknown.try_send(id);
                    }
                    if is_first { Duration::ZERO } else { HEARTBEAT_INTERVAL }
                }
                Err(status) => {
                    let (code, message) = (status.code(), status.message());
                    tracing::warn!(?code, message, "a heartbeat was not accepted");
                    RETRY_INTERVAL
                }
            };
            pause_unless_stopped(pause, &stop).await;
        }
    }

    async fn build_request(&self, is_first: bool) -> HeartbeatRequest {
        let environments = if is_first { vec![] } else { self.driver.reports().await };
        let info = self.driver.info();
        HeartbeatRequest {
            runner: self.settings.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capacity: Some(info.capacity),
            isolation: info.isolation,
            limits: info.limits,
            environments,
            tasks: self.leases.list(),
            shared_address: self.settings.address.clone(),
            database_address: self.driver.database_address(),
        }
    }
}

/// Removes environments that the project service does not know, until `stop`; apart from the heartbeats,
/// because many files take long.
pub(crate) async fn remove_unknown(
    driver: Arc<dyn Driver>,
    leases: Arc<ActiveLeases>,
    mut unknown: mpsc::Receiver<String>,
    stop: CancellationToken,
) {
    loop {
        let id = tokio::select! {
            () = stop.cancelled() => return,
            id = unknown.recv() => id,
        };
        let Some(id) = id else { return };
        if leases.is_working_on(&id) {
            continue;
        }
        tracing::info!(environment = id, "an environment no longer exists; it is removed");
        if let Err(error) = driver.destroy(&id).await {
            let error = format!("{error:#}");
            tracing::warn!(environment = id, error, "something was left behind");
        }
    }
}

/// Restarts what ended by itself, until `stop`; apart from the heartbeats, which must not wait for it.
pub(crate) async fn reconcile(driver: Arc<dyn Driver>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        driver.reconcile().await;
        pause_unless_stopped(RECONCILE_INTERVAL, &stop).await;
    }
}

/// Measures files, until `stop`; apart from everything else, because many files take long.
pub(crate) async fn measure(driver: Arc<dyn Driver>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            () = driver.measure() => {}
        }
        pause_unless_stopped(MEASURE_INTERVAL, &stop).await;
    }
}

async fn pause_unless_stopped(pause: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}
