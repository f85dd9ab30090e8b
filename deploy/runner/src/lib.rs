//! The runner: leases tasks from the project service over gRPC, executes them, reports.
//!
//! | concept | file |
//! |---|---|
//! | the verbs of a driver | `driver` |
//! | the driver that runs sandboxed processes of this machine | `process` |
//! | one task, from its lease to its end | `task` |
//! | heartbeats | `heartbeat` |
//! | the project service as a runner sees it | `client` |
//! | foreign text | `text` |
//! | the runner of a connected server, as a program | `program` |

mod client;
pub mod driver;
mod heartbeat;
mod process;
pub mod program;
mod task;
mod text;

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use api::project::{LeaseTaskRequest, runner_service_client::RunnerServiceClient};
use chassis::Host;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub use process::NetworkSettings;

use client::{RemoteClient, TaskClient};
use driver::Driver;
use process::Processes;
use task::{ActiveLeases, TaskWorker};

/// Seconds that one question for work waits at the project service.
const LEASE_WAIT_S: i64 = 20;

/// Time until the next question after one failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Environments that wait for their removal.
const UNKNOWN_MAX: usize = 256;

/// Tasks that a runner works on at once.
const TASKS_MAX: usize = 8;

/// Guarantees that a server must give before it runs deployed code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsolationPolicy {
    /// All of them: deployed code is that of strangers.
    Required,
    /// A sandbox; what else the machine cannot give is reported. For servers whose owner deploys to them.
    BestEffort,
}

/// Settings of a runner.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its own name.
    pub name: String,
    /// The folder of its environments.
    pub data_dir: PathBuf,
    /// The address that deployed programs listen on.
    pub bind: IpAddr,
    /// The host part of their URLs, where they are reached from other machines.
    pub address: String,
    /// The administrator of a PostgreSQL for them; without it the runner starts one of its own.
    pub database_url: Option<String>,
    /// Guarantees without which nothing is deployed.
    pub isolation: IsolationPolicy,
    /// Networks of environments.
    pub network: NetworkSettings,
}

impl Settings {
    /// The runner of a shared server that serves this machine only. Its name is kept in its folder: another
    /// folder is another server.
    pub fn shared(data_dir: PathBuf, config: &chassis::Config) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&data_dir)?;
        let file = data_dir.join("name");
        let name = if let Ok(name) = std::fs::read_to_string(&file) {
            name.trim().to_owned()
        } else {
            let name = format!("shared-{}", &chassis::id::new().to_string()[24..]);
            std::fs::write(&file, &name).context("the runner's name cannot be written")?;
            name
        };
        Ok(Self {
            name,
            data_dir,
            bind: std::net::Ipv4Addr::LOCALHOST.into(),
            address: "127.0.0.1".to_owned(),
            database_url: None,
            isolation: if config.allow_weak_isolation {
                IsolationPolicy::BestEffort
            } else {
                IsolationPolicy::Required
            },
            network: NetworkSettings {
                addresses: config.runner_network,
                reachable: config.runner_reachable_networks.clone(),
            },
        })
    }
}

/// Adds a runner to a process; its server is shared. The process is ready when the server can be deployed
/// to.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let project = host.client("runner", "project");
    let folder = host.folder().path().join("runner");
    let settings = Settings::shared(folder, host.config())?;
    let client = RemoteClient { client: RunnerServiceClient::new(project), bearer: None };
    let registered = CancellationToken::new();
    host.await_before_ready(registered.clone());
    host.task("the runner", move |stop| run(Arc::new(client), settings, registered, stop));
    Ok(())
}

/// Runs the runner of a shared server as a process of its own, which proves itself by its certificate.
pub async fn run_shared(
    project: Channel,
    settings: Settings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let client = RunnerServiceClient::new(project);
    let client = Arc::new(RemoteClient { client, bearer: None });
    run(client, settings, CancellationToken::new(), stop).await
}

/// Works on tasks until `stop`; cancels `registered` when the project service knows the server. What is
/// deployed goes on running without the runner.
pub(crate) async fn run(
    client: Arc<dyn TaskClient>,
    settings: Settings,
    registered: CancellationToken,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let name = settings.name.clone();
    let driver: Arc<dyn Driver> =
        Arc::new(Processes::new(settings.clone()).await.context("the runner cannot start")?);
    let leases = Arc::new(ActiveLeases::default());
    let places = Arc::new(Semaphore::new(TASKS_MAX));
    let mut tasks = JoinSet::new();
    let (unknown, unknown_ids) = mpsc::channel(UNKNOWN_MAX);
    let heartbeat = heartbeat::Heartbeat {
        client: client.clone(),
        driver: driver.clone(),
        settings,
        leases: leases.clone(),
        registered: registered.clone(),
        unknown,
    };
    tasks.spawn(heartbeat.run(stop.clone()));
    tasks.spawn(heartbeat::reconcile(driver.clone(), stop.clone()));
    tasks.spawn(heartbeat::measure(driver.clone(), stop.clone()));
    let removal =
        heartbeat::remove_unknown(driver.clone(), leases.clone(), unknown_ids, stop.clone());
    tasks.spawn(removal);
    // The project service knows the server from its first heartbeat on.
    tokio::select! {
        () = registered.cancelled() => {}
        () = stop.cancelled() => {}
    }
    while !stop.is_cancelled() {
        let place = places.clone().acquire_owned().await?;
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
                    worker.work(lease, stop).await;
                    drop(place);
                });
            }
            Ok(None) => {}
            Err(status) => {
                let (code, message) = (status.code(), status.message());
                tracing::warn!(?code, message, "no task can be leased");
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
