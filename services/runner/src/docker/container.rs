//! Containers: one for each start of a program and for each build. Isolation: network of the environment,
//! account of the environment, no capabilities, no new privileges, default seccomp profile, limits.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bollard::{
    container::LogOutput,
    models::{
        ContainerCreateBody, EndpointSettings, HostConfig, HostConfigLogConfig, Mount, MountType,
        NetworkingConfig, RestartPolicy, RestartPolicyNameEnum,
    },
    query_parameters::{
        ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use uuid::Uuid;

use super::{
    ContainerLimits, Docker, VERSION_LABEL, engine_error, network::network_name, of_environment,
    optional, orphans, settled,
};

/// Maximum size of the output of a container that the engine keeps.
const LOG_SIZE_MAX: &str = "10m";

/// Number of lines of a container's output that errors can quote.
const TAIL_LINES: &str = "400";

/// Longest wait for the engine's event that a process of an ended container was killed because of the memory
/// limit. The engine reports it independently of the end, often after it.
const OOM_EVENT_TIMEOUT: Duration = Duration::from_secs(1);

const OOM_EVENT_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Exit code of a program that was killed by SIGKILL.
const EXIT_CODE_KILLED: i32 = 137;

/// Command of a container.
pub(crate) enum Command {
    /// The command of the image.
    OfImage,
    /// A shell command, in place of the image's entry point and command.
    Shell(String),
}

/// Source of a mount.
pub(crate) enum MountSource {
    Directory(std::path::PathBuf),
    ReadOnlyDirectory(std::path::PathBuf),
}

/// Port of a container that the engine publishes on this machine.
#[derive(Clone, Copy)]
pub(crate) struct PortBinding {
    /// Address on this machine.
    pub(crate) address: IpAddr,
    /// Port on this machine.
    pub(crate) port: u16,
    /// Port in the container.
    pub(crate) container_port: u16,
}

/// A container to start.
pub(crate) struct ContainerSpec {
    pub(crate) environment: Uuid,
    /// Deployment (`release` of a lease).
    pub(crate) version: String,
    /// Id or name of the image, which must exist.
    pub(crate) image: String,
    pub(crate) command: Command,
    pub(crate) working_dir: Option<&'static str>,
    pub(crate) variables: BTreeMap<String, String>,
    /// Mounts by path in the container.
    pub(crate) mounts: Vec<(&'static str, MountSource)>,
    /// User id and group id.
    pub(crate) account: u32,
    pub(crate) limits: ContainerLimits,
    pub(crate) published: Option<PortBinding>,
}

/// A container that was started, and may have ended since.
#[derive(Debug)]
pub(crate) struct StartedContainer {
    pub(crate) id: String,
    /// Process id of its init process on this machine; `None` if it has ended.
    pub(crate) pid: Option<u32>,
    /// Address in the network of its environment.
    pub(crate) address: Ipv4Addr,
}

/// State of a container.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ContainerState {
    /// Exit code of the main program; `None` while it runs.
    pub(crate) exit_code: Option<i32>,
    /// True if the kernel has killed a process of it because of the memory limit.
    pub(crate) has_exceeded_memory: bool,
}

impl Docker {
    /// Creates and starts a container.
    pub(crate) async fn start_container(&self, spec: ContainerSpec) -> Result<StartedContainer> {
        let network = self.create_network(spec.environment).await?;
        let limits = spec.limits;
        let mut body = self.body(spec, &network);
        let id = loop {
            let has_quota = self.has_disk_quota.load(Ordering::Relaxed);
            if let Some(host) = &mut body.host_config {
                host.storage_opt = has_quota.then(|| limits.disk_quota());
            }
            match self.client.create_container(None, body.clone()).await.map_err(engine_error) {
                Ok(created) => break created.id,
                // Only some storage drivers limit the size of a container.
                Err(error) if has_quota => {
                    tracing::debug!(error = format!("{error:#}"), "no disk quota of containers");
                    self.has_disk_quota.store(false, Ordering::Relaxed);
                }
                Err(error) => return Err(error).context("the container cannot be created"),
            }
        };
        if let Err(error) = self.client.start_container(&id, None).await {
            self.remove_container(&id).await?;
            return Err(engine_error(error)).context("the container cannot be started");
        }
        let inspected = settled(|| self.client.inspect_container(&id, None)).await;
        let inspected = inspected.map_err(engine_error)?;
        let pid = inspected.state.and_then(|it| it.pid).filter(|it| *it > 0);
        let networks = inspected.network_settings.and_then(|it| it.networks).unwrap_or_default();
        let address = networks.get(&network).and_then(|it| it.ip_address.as_deref());
        let address = address.and_then(|it| it.parse().ok());
        Ok(StartedContainer {
            id,
            pid: pid.and_then(|it| u32::try_from(it).ok()),
            // A container that has ended has none.
            address: address.unwrap_or(Ipv4Addr::UNSPECIFIED),
        })
    }

    fn body(&self, spec: ContainerSpec, network: &str) -> ContainerCreateBody {
        let mut labels = self.labels(spec.environment);
        labels.insert(VERSION_LABEL.to_owned(), spec.version);
        let (entrypoint, command) = match spec.command {
            Command::OfImage => (None, None),
            Command::Shell(command) => {
                (Some(["/bin/sh", "-c"].map(str::to_owned).to_vec()), Some(vec![command]))
            }
        };
        let host = HostConfig {
            network_mode: Some(network.to_owned()),
            mounts: Some(
                spec.mounts.into_iter().map(|(path, source)| mount(path, source)).collect(),
            ),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            privileged: Some(false),
            // An init process that forwards signals and reaps orphans.
            init: Some(true),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                ..RestartPolicy::default()
            }),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(HashMap::from([
                    ("max-size".to_owned(), LOG_SIZE_MAX.to_owned()),
                    ("max-file".to_owned(), "1".to_owned()),
                ])),
            }),
            port_bindings: spec.published.map(port_bindings),
            ..HostConfig::default()
        };
        let exposed = spec.published.map(|it| vec![format!("{}/tcp", it.container_port)]);
        let endpoints = HashMap::from([(network.to_owned(), EndpointSettings::default())]);
        ContainerCreateBody {
            hostname: Some("environment".to_owned()),
            user: Some(format!("{0}:{0}", spec.account)),
            env: Some(
                spec.variables.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            ),
            cmd: command,
            entrypoint,
            image: Some(spec.image),
            working_dir: spec.working_dir.map(str::to_owned),
            labels: Some(labels),
            exposed_ports: exposed,
            host_config: Some(spec.limits.apply(host)),
            networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoints) }),
            ..ContainerCreateBody::default()
        }
    }

    /// Returns the state of a container; `None` if it does not exist. If its program was killed, waits for
    /// the event that says whether this was because of the memory limit.
    pub(crate) async fn container_state(&self, id: &str) -> Result<Option<ContainerState>> {
        let polls = OOM_EVENT_TIMEOUT.as_millis() / OOM_EVENT_POLL_INTERVAL.as_millis();
        for _ in 0..polls {
            let state = self.current_container_state(id).await?;
            let is_killed = state.is_some_and(|it| it.exit_code == Some(EXIT_CODE_KILLED));
            if !is_killed || state.is_some_and(|it| it.has_exceeded_memory) {
                return Ok(state);
            }
            tokio::time::sleep(OOM_EVENT_POLL_INTERVAL).await;
        }
        self.current_container_state(id).await
    }

    async fn current_container_state(&self, id: &str) -> Result<Option<ContainerState>> {
        let inspected = optional(settled(|| self.client.inspect_container(id, None)).await)?;
        Ok(inspected.map(|it| {
            let state = it.state.unwrap_or_default();
            let has_ended = state.running != Some(true);
            let exit_code = state.exit_code.filter(|_| has_ended);
            ContainerState {
                exit_code: exit_code.and_then(|it| i32::try_from(it).ok()),
                has_exceeded_memory: state.oom_killed == Some(true),
            }
        }))
    }

    /// Returns the end of the output of a container; empty if it does not exist.
    pub(crate) async fn last_output(&self, id: &str) -> Vec<u8> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(TAIL_LINES).build();
        let mut bytes = vec![];
        let mut output = std::pin::pin!(self.client.logs(id, Some(options)));
        while let Some(Ok(part)) = output.next().await {
            bytes.extend(part.into_bytes());
        }
        bytes
    }

    /// Returns the output of a container from its start on; ends with the container.
    pub(crate) fn follow_output(
        &self,
        id: &str,
    ) -> impl Stream<Item = std::io::Result<Bytes>> + use<'_> {
        let options = LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true).build();
        let output = self.client.logs(id, Some(options));
        output.map(|it| it.map(LogOutput::into_bytes).map_err(std::io::Error::other))
    }

    /// Removes a container with all its processes, also while it runs.
    pub(crate) async fn remove_container(&self, id: &str) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.client.remove_container(id, Some(options)).await {
            // Another removal is in progress.
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, .. }) => {}
            other => {
                optional(other)?;
            }
        }
        orphans::kill(id).await
    }

    /// Removes the containers of an environment, but for those with these ids. After a failure,
    /// [`Self::has_ended_containers`].
    pub(crate) async fn remove_containers(&self, environment: Uuid, kept: &[&str]) -> Result<()> {
        let removed = self.try_remove_containers(environment, kept).await;
        let mut unclean = self.unclean.lock().unwrap_or_else(PoisonError::into_inner);
        if removed.is_ok() {
            unclean.remove(&environment);
        } else {
            unclean.insert(environment);
        }
        removed
    }

    /// Returns true if containers of an environment could not be removed when they ended.
    pub(crate) fn has_ended_containers(&self, environment: Uuid) -> bool {
        self.unclean.lock().unwrap_or_else(PoisonError::into_inner).contains(&environment)
    }

    async fn try_remove_containers(&self, environment: Uuid, kept: &[&str]) -> Result<()> {
        // The steps of a build have no label. Those of a build whose engine was killed go on.
        let network = HashMap::from([("network".to_owned(), vec![network_name(environment)])]);
        for filters in [of_environment(environment), network] {
            let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
            let list = || self.client.list_containers(Some(options.clone()));
            let containers = settled(list).await.map_err(engine_error)?;
            for id in containers.into_iter().filter_map(|it| it.id) {
                if !kept.contains(&&*id) {
                    self.remove_container(&id).await?;
                }
            }
        }
        Ok(())
    }

    /// Waits for the end of a container; returns its exit code.
    pub(crate) async fn wait_for_end(&self, id: &str) -> Result<i32> {
        let mut wait = std::pin::pin!(self.client.wait_container(id, None));
        match wait.next().await {
            Some(Ok(ended)) => Ok(i32::try_from(ended.status_code)?),
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => {
                Ok(i32::try_from(code)?)
            }
            Some(Err(error)) => Err(engine_error(error)),
            None => bail!("the container engine did not report the end of a container"),
        }
    }
}

fn mount(path: &str, source: MountSource) -> Mount {
    let (source, read_only) = match source {
        MountSource::Directory(it) => (it, false),
        MountSource::ReadOnlyDirectory(it) => (it, true),
    };
    Mount {
        target: Some(path.to_owned()),
        source: Some(source.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

fn port_bindings(it: PortBinding) -> bollard::models::PortMap {
    let binding = bollard::models::PortBinding {
        host_ip: Some(it.address.to_string()),
        host_port: Some(it.port.to_string()),
    };
    HashMap::from([(format!("{}/tcp", it.container_port), Some(vec![binding]))])
}
