//! Client of a container engine on this machine: the Docker Engine, or Podman at its compatible socket. Its
//! API runs one container per program and per build, each in the network of its environment.
//!
//! | concept | file |
//! |---|---|
//! | command line | `arguments` |
//! | connection, and what the engine can enforce | `engine` |
//! | containers: isolation, start, end | `container` |
//! | output of containers | `output` |
//! | commands in running containers | `exec` |
//! | limits of a container | `limits` |
//! | network of an environment | `network` |
//! | images: build, pull, removal | `build`, `image` |
//! | references to images in a Dockerfile | `dockerfile` |
//! | credentials of registries | `registry` |

pub(crate) mod arguments;
mod build;
mod container;
pub(crate) mod dockerfile;
mod engine;
mod exec;
mod image;
mod limits;
mod network;
mod orphans;
mod output;
mod registry;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use bollard::errors::Error;
use ipnet::Ipv4Net;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::settings::{DockerSettings, Settings};
pub(crate) use build::ImageBuild;
pub(crate) use container::{Command, ContainerSpec, MountSource, PortBinding};
pub(crate) use exec::{Exec, ExecOutput, ExecSpec};
pub(crate) use image::Image;
pub(crate) use limits::ContainerLimits;
pub(crate) use output::{ContainerOutput, OutputLine, OutputQuery};
use registry::Credentials;

/// Label with the id of an environment, on its containers and its network. Images have it in their names.
const ENVIRONMENT_LABEL: &str = "tenantry.environment";

/// Label with the name of the runner.
const SERVER_LABEL: &str = "tenantry.server";

/// Label of a container with the id of its version (`release` of a lease).
const VERSION_LABEL: &str = "tenantry.version";

/// A container engine.
pub(crate) struct Docker {
    client: bollard::Docker,
    /// Path of the engine's Unix socket.
    socket: PathBuf,
    /// Name of the runner.
    server: String,
    base_image: Option<String>,
    credentials: Credentials,
    /// Network from which the networks of environments take their addresses.
    addresses: Ipv4Net,
    /// Locked while a network is created.
    network_creation: Mutex<()>,
    /// False if the storage driver of the engine cannot limit the size of a container.
    has_disk_quota: AtomicBool,
    engine: engine::EngineInfo,
    /// Sizes of the writable layers of containers, in bytes, by environment.
    written: std::sync::Mutex<Written>,
    /// Environments with ended containers that could not be removed.
    unclean: std::sync::Mutex<HashSet<Uuid>>,
    /// True if versions without a Dockerfile must not run in a sandbox instead.
    is_required: bool,
}

/// Last measurement of the writable layers of containers.
#[derive(Default)]
struct Written {
    measured_at: Option<Instant>,
    bytes: HashMap<Uuid, i64>,
}

/// Time limit of an answer that only shows that the engine runs.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for a state of a container that the client knows.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

const SETTLE_INTERVAL: Duration = Duration::from_millis(50);

/// Interval of measurements of writable layers, which the engine computes by reading all of their files.
const MEASURE_INTERVAL: Duration = Duration::from_secs(60);

impl Docker {
    /// Connects to the engine. Fails if it does not answer.
    pub(crate) async fn connect(settings: &Settings, docker: &DockerSettings) -> Result<Self> {
        let client = engine::connect(&docker.socket).await?;
        let engine = engine::EngineInfo::of(&client).await?;
        network::apply_rules(&settings.network).await.context(
            "the networks of containers cannot be isolated (needs root with CAP_NET_ADMIN and nftables)",
        )?;
        Ok(Self {
            client,
            socket: docker.socket.clone(),
            server: settings.name.clone(),
            base_image: docker.base_image.clone(),
            credentials: Credentials::read(docker.credentials_file.as_deref())?,
            addresses: settings.network.addresses,
            network_creation: Mutex::default(),
            has_disk_quota: AtomicBool::new(engine.may_limit_disk),
            engine,
            written: std::sync::Mutex::default(),
            unclean: std::sync::Mutex::default(),
            is_required: docker.is_required,
        })
    }

    /// Returns true if the engine answers now.
    pub(crate) async fn is_answering(&self) -> bool {
        matches!(tokio::time::timeout(PING_TIMEOUT, self.client.ping()).await, Ok(Ok(_)))
    }

    /// True if versions without a Dockerfile or an image run in sandboxes.
    pub(crate) fn leaves_code_to_sandboxes(&self) -> bool {
        self.base_image.is_none() && !self.is_required
    }

    /// Returns the image on which versions without a Dockerfile run; `None`: they run in a sandbox.
    pub(crate) fn base_image(&self) -> Result<Option<&str>> {
        match &self.base_image {
            None if self.is_required => Err(anyhow!(
                "the repository has no Dockerfile, and the server has no base image for its tenantry.toml or \
                 Procfile; add a Dockerfile, or start the runner with --base-image"
            )),
            base_image => Ok(base_image.as_deref()),
        }
    }

    /// Labels of an object of an environment.
    fn labels(&self, environment: Uuid) -> HashMap<String, String> {
        HashMap::from([
            (ENVIRONMENT_LABEL.to_owned(), environment.to_string()),
            (SERVER_LABEL.to_owned(), self.server.clone()),
        ])
    }

    /// Removes everything of an environment: containers, images and network.
    pub(crate) async fn remove_environment(&self, environment: Uuid) -> Result<()> {
        self.remove_containers(environment, &[]).await?;
        self.remove_images(environment, &[]).await?;
        self.remove_network(environment).await
    }
}

/// Filter for objects of an environment.
fn of_environment(environment: Uuid) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{ENVIRONMENT_LABEL}={environment}")])])
}

/// Returns the error of the engine as text.
fn engine_error(error: Error) -> anyhow::Error {
    match error {
        Error::DockerResponseServerError { message, .. } => anyhow!("{message}"),
        Error::DockerStreamError { error } => anyhow!("{error}"),
        error => anyhow!("the container engine does not answer: {error}"),
    }
}

/// Repeats a request while its answer has a state of a container that the client does not know. Podman
/// reports `stopped` until it has cleaned up after the end of a container.
async fn settled<T, F>(request: impl Fn() -> F) -> std::result::Result<T, Error>
where
    F: Future<Output = std::result::Result<T, Error>>,
{
    let started = Instant::now();
    loop {
        match request().await {
            Err(Error::JsonDataError { .. }) if started.elapsed() < SETTLE_TIMEOUT => {
                tokio::time::sleep(SETTLE_INTERVAL).await;
            }
            result => return result,
        }
    }
}

/// Turns "not found" into `None`.
fn optional<T>(result: std::result::Result<T, Error>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(engine_error(error)),
    }
}
