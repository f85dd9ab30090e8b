//! The runner: leases tasks from the project service over gRPC, executes them and reports the results.
//!
//! | concept | file |
//! |---|---|
//! | interface to the technology that runs environments | `driver` |
//! | the driver that runs processes of this machine, in sandboxes or containers | `process` |
//! | client of the Docker Engine | `docker` |
//! | execution of one leased task | `task` |
//! | heartbeats and other background loops | `heartbeat` |
//! | custom domains of environments | `domains` |
//! | client of the project service | `client` |
//! | programs of the machine: ip, nft | `system_program` |
//! | reading of foreign text in bounded memory | `text` |
//! | redaction of secrets in foreign text | `secrets` |
//! | the proxy in front of environments | `proxy` |
//! | files of certificates | `certificate` |
//! | requests of certificates from an ACME authority | `renewal` |
//! | streams to people: the output of programs | `stream` |
//! | recipes of programs without a Dockerfile | `recipe` |
//! | settings | `settings` |
//! | the program `tenantry-runner` for connected servers | `program` |

mod certificate;
mod client;
mod docker;
mod domains;
pub mod driver;
#[cfg(test)]
#[path = "../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each fuzz target uses a part of the module")]
mod fuzz_input;
mod heartbeat;
mod process;
pub mod program;
mod proxy;
mod recipe;
mod renewal;
mod secrets;
mod settings;
mod stream;
mod system_program;
mod task;
mod text;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use api::project::LeaseTaskRequest;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub use certificate::CertificateStore;
pub use client::TaskClient;
pub use docker::arguments::DockerArguments;
pub use proxy::arguments::ProxyArguments;
pub use settings::{
    AcmeDns, DockerSettings, IsolationPolicy, NetworkSettings, ProxySettings, RecipeImage,
    RecipeSettings, Settings, Tls,
};

use driver::Driver;
use process::Processes;
use renewal::Renewal;
use task::{ActiveLeases, TaskWorker};

/// Seconds that the project service waits for a task before it answers a lease request with none.
const LEASE_WAIT_S: i64 = 20;

/// Delay before a failed lease request is retried.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Capacity of the queue of environments to remove, because they do not exist in the project service.
const UNKNOWN_ENVIRONMENTS_MAX: usize = 256;

/// Maximum number of tasks that a runner executes concurrently.
const TASKS_MAX: usize = 8;

/// Returns the driver that runs environments as processes of this machine: in containers if the settings name
/// an engine, otherwise in sandboxes.
pub async fn process_driver(settings: Settings) -> anyhow::Result<Arc<dyn Driver>> {
    Ok(Arc::new(Processes::new(settings).await?))
}

/// Isolation of deployed code on this machine.
pub struct Isolation {
    /// Sandbox, account and network of a program.
    pub description: String,
    /// Guarantees that this machine does not give, with the remedy.
    pub missing: Vec<&'static str>,
}

/// Returns the isolation that programs would have; fails if the settings require more.
pub async fn examine_isolation(settings: &Settings) -> anyhow::Result<Isolation> {
    let sandbox = process::probe_sandbox(settings).await?;
    Ok(Isolation { description: sandbox.description(), missing: sandbox.missing() })
}

/// Executes tasks until `stop` is cancelled. Cancels `registered` when the project service has accepted the
/// first heartbeat, so that environments can be deployed to this server. Deployed programs keep running when
/// the runner ends.
pub async fn run(
    client: impl TaskClient,
    settings: Settings,
    registered: CancellationToken,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let client: Arc<dyn TaskClient> = Arc::new(client);
    let name = settings.name.clone();
    let driver = process_driver(settings.clone()).await.context("the runner cannot start")?;
    let leases = Arc::new(ActiveLeases::default());
    let task_slots = Arc::new(Semaphore::new(TASKS_MAX));
    let mut tasks = JoinSet::new();
    let (unknown_sender, unknown_receiver) = mpsc::channel(UNKNOWN_ENVIRONMENTS_MAX);
    if let Some(renewal) = Renewal::new(&settings, client.clone(), driver.clone()) {
        tasks.spawn(renewal.run(stop.clone()));
    }
    let heartbeat = heartbeat::Heartbeat {
        client: client.clone(),
        driver: driver.clone(),
        settings,
        leases: leases.clone(),
        registered: registered.clone(),
        unknown_environments: unknown_sender,
    };
    tasks.spawn(heartbeat.run(stop.clone()));
    tasks.spawn(heartbeat::reconcile(driver.clone(), stop.clone()));
    tasks.spawn(heartbeat::measure(driver.clone(), stop.clone()));
    tasks.spawn(heartbeat::remove_unknown(
        driver.clone(),
        leases.clone(),
        unknown_receiver,
        stop.clone(),
    ));
    // The first heartbeat registers the server; lease requests before it fail.
    tokio::select! {
        () = registered.cancelled() => {}
        () = stop.cancelled() => {}
    }
    let streams = stream::Streams::new(client.clone(), driver.clone(), name.clone());
    tasks.spawn(streams.run(stop.clone()));
    while !stop.is_cancelled() {
        let slot = task_slots.clone().acquire_owned().await?;
        // Drops the results of tasks that have ended, so that they do not accumulate.
        while tasks.try_join_next().is_some() {}
        let wait = Some(prost_types::Duration { seconds: LEASE_WAIT_S, nanos: 0 });
        let leased = tokio::select! {
            leased = client.lease(LeaseTaskRequest { runner: name.clone(), wait }) => leased,
            () = stop.cancelled() => break,
        };
        match leased {
            Ok(Some(lease)) => {
                let worker = TaskWorker {
                    client: client.clone(),
                    driver: driver.clone(),
                    leases: leases.clone(),
                    runner: name.clone(),
                };
                let stop = stop.clone();
                tasks.spawn(async move {
                    worker.run(lease, stop).await;
                    drop(slot);
                });
            }
            Ok(None) => {}
            Err(status) => {
                let code = status.code();
                tracing::warn!(?code, error = status.message(), "leasing a task failed");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(RETRY_INTERVAL) => {}
                }
            }
        }
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}
