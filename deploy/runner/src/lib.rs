//! Executes tasks: leases them from the project service over gRPC, works, reports. The project service never
//! knows how.
//!
//! | concept | file |
//! |---|---|
//! | the verbs of a driver | `driver` |
//! | the driver that runs processes of this machine | `process` |
//! | one task, from its lease to its end | `work` |
//! | what is said every few seconds | `beat` |
//! | the project service, as a runner sees it | `desk` |
//! | the runner of a connected server, as a program | `program` |

mod beat;
mod desk;
pub mod driver;
mod process;
pub mod program;
mod work;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use api::project::{LeaseTaskRequest, runner_service_client::RunnerServiceClient};
use chassis::Host;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use desk::{Desk, Remote};
use driver::Driver;
use process::Processes;
use work::Held;

/// How long one question for work waits at the project service.
const WAIT: i64 = 20;

/// How long a runner rests after a question failed.
const REST: Duration = Duration::from_millis(500);

/// How many tasks a runner works on at once.
const TASKS_MAX: usize = 8;

/// What a runner is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its own name.
    pub name: String,
    /// Where it works.
    pub folder: PathBuf,
    /// The address that deployed programs listen on.
    pub bind: std::net::IpAddr,
    /// Where they are reached, in their URLs.
    pub address: String,
    /// The administrator of a PostgreSQL for them; without it the runner has one of its own.
    pub database_url: Option<String>,
}

impl Settings {
    /// A runner that serves this machine only. Its name is kept in its folder: another folder is another
    /// server.
    pub fn local(folder: PathBuf) -> anyhow::Result<Self> {
        let bind = std::net::Ipv4Addr::LOCALHOST.into();
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("name");
        let name = if let Ok(name) = std::fs::read_to_string(&file) {
            name.trim().to_owned()
        } else {
            let name = format!("shared-{}", &chassis::id::new().to_string()[24..]);
            std::fs::write(&file, &name).context("the runner's name cannot be written")?;
            name
        };
        let address = "127.0.0.1".to_owned();
        Ok(Self { name, folder, bind, address, database_url: None })
    }
}

/// Adds a runner to a process; its server is shared.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let project = host.client("runner", "project");
    let settings = Settings::local(host.folder().path().join("runner"))?;
    let desk = Arc::new(Remote { client: RunnerServiceClient::new(project), bearer: None });
    host.task("the runner", move |stop| run(desk, settings, stop));
    Ok(())
}

/// Runs the runner of a shared server as a process of its own, which proves itself by its certificate.
pub async fn run_shared(
    project: Channel,
    settings: Settings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let client = RunnerServiceClient::new(project);
    run(Arc::new(Remote { client, bearer: None }), settings, stop).await
}

/// Takes tasks until `stop`. What is deployed goes on running without the runner.
pub(crate) async fn run(
    desk: Arc<dyn Desk>,
    settings: Settings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let name = settings.name.clone();
    let driver: Arc<dyn Driver> =
        Arc::new(Processes::new(settings.clone()).context("the runner has no folder to work in")?);
    let held = Arc::new(Held::default());
    let places = Arc::new(Semaphore::new(TASKS_MAX));
    let mut tasks = JoinSet::new();
    let heard = CancellationToken::new();
    let beat = beat::Beat {
        desk: desk.clone(),
        driver: driver.clone(),
        settings,
        held: held.clone(),
        heard: heard.clone(),
    };
    tasks.spawn(beat.run(stop.clone()));
    tasks.spawn(beat::tend(driver.clone(), stop.clone()));
    // Before its first word the server of a runner is not known.
    tokio::select! {
        () = heard.cancelled() => {}
        () = stop.cancelled() => {}
    }
    while !stop.is_cancelled() {
        let place = places.clone().acquire_owned().await?;
        while tasks.try_join_next().is_some() {}
        let wait = Some(prost_types::Duration { seconds: WAIT, nanos: 0 });
        let asked = tokio::select! {
            asked = desk.lease(LeaseTaskRequest { runner: name.clone(), wait }) => asked,
            () = stop.cancelled() => break,
        };
        match asked {
            Ok(Some(lease)) => {
                let job = work::Job {
                    desk: desk.clone(),
                    driver: driver.clone(),
                    held: held.clone(),
                    runner: name.clone(),
                };
                let stop = stop.clone();
                tasks.spawn(async move {
                    job.work(lease, stop).await;
                    drop(place);
                });
            }
            Ok(None) => {}
            Err(status) => {
                tracing::warn!(code = ?status.code(), message = status.message(), "no work");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(REST) => {}
                }
            }
        }
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}
