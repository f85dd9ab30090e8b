//! Programs in containers of an engine, and what they leave in it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    Processes,
    directory::EnvironmentDir,
    health::{StartingProgram, wait_until_healthy},
    launch::{Launch, ProgramImage},
    limits::{MemoryLimitExceeded, PROCESSES_MAX, ResourceLimits},
    log::{ProgramLog, quote_output},
    manifest::Technology,
    process_tree::{ContainerRef, OrphanGuard, ProcessTree},
    record::{DesiredState, EnvironmentRecord},
    restart::ProgramEnd,
    sandbox::Sandbox,
    usage::DiskUsage,
};
use crate::{
    docker::{Command, ContainerLimits, ContainerSpec, Docker, MountSource, PortBinding},
    settings::Settings,
};

/// Longest wait for the engine to notice the end of a process.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait of a starting runner for the engine of its containers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

const CONNECT_INTERVAL: Duration = Duration::from_secs(1);

/// Connects to the engine of the settings; `None` without one, and if it is not required and cannot be used.
/// If environments run in containers, it is waited for: engine and runner start at the same time with their
/// machine.
pub(super) async fn connect(settings: &Settings, sandbox: &Sandbox) -> Result<Option<Docker>> {
    let Some(docker) = &settings.docker else { return Ok(None) };
    let can_isolate = sandbox.accounts.are_separate() && sandbox.network.is_separate();
    let has_containers = can_isolate && has_containers(settings).await;
    let started = Instant::now();
    let connected = loop {
        let connected = async {
            ensure!(
                can_isolate,
                "containers need a runner that is root and can configure networks"
            );
            Docker::connect(settings, docker).await
        };
        match connected.await {
            Err(error) if has_containers && started.elapsed() < CONNECT_TIMEOUT => {
                let error = format!("{error:#}");
                tracing::warn!(
                    error,
                    "waiting for the container engine, in which environments run"
                );
                tokio::time::sleep(CONNECT_INTERVAL).await;
            }
            connected => break connected,
        }
    };
    match connected {
        Ok(connected) => Ok(Some(connected)),
        // Without the engine their programs would be restarted in vain until they count as failed.
        Err(error) if docker.is_required || has_containers => Err(error),
        Err(error) => {
            tracing::info!(
                error = format!("{error:#}"),
                "no containers; programs run in sandboxes"
            );
            Ok(None)
        }
    }
}

/// Returns true if a version of an environment that should run is one for containers.
async fn has_containers(settings: &Settings) -> bool {
    let Ok(entries) = std::fs::read_dir(&settings.data_dir) else { return false };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(environment) = EnvironmentDir::new(&settings.data_dir, &name) else { continue };
        if environment.record().await.desired == DesiredState::Running
            && environment.launch().await.is_some_and(|it| it.image.is_some())
        {
            return true;
        }
    }
    false
}

impl Processes {
    /// Returns true if a launch needs the container engine, and that does not answer now.
    pub(super) async fn lacks_engine(&self, launch: &Launch) -> bool {
        let Some(docker) = self.docker.as_ref().filter(|_| launch.image.is_some()) else {
            return false;
        };
        !docker.is_answering().await
    }

    pub(super) fn docker(&self) -> Result<&Docker> {
        self.docker.as_ref().context(
            "the version runs in a container, but the runner is not connected to a container engine",
        )
    }

    pub(super) fn technology(&self) -> Technology {
        if self.docker.is_some() { Technology::Containers } else { Technology::Sandbox }
    }

    /// Description of the isolation for operators, at most 200 bytes.
    pub(super) fn describe_isolation(&self) -> String {
        let sandbox = self.sandbox.description();
        match &self.docker {
            None => sandbox,
            Some(docker) if docker.leaves_code_to_sandboxes() => {
                format!("{}; without image or Dockerfile: {sandbox}", docker.describe_isolation())
            }
            Some(docker) => docker.describe_isolation(),
        }
    }

    /// Description of the limits for operators.
    pub(super) fn describe_limits(&self) -> String {
        let of_sandboxes = || self.sandbox.limiter.description().to_owned();
        self.docker.as_ref().map_or_else(of_sandboxes, Docker::describe_limits)
    }

    /// Starts a version in a container and waits until it is healthy. If that fails, the container is left.
    pub(super) async fn start_in_container(
        &self,
        environment: &EnvironmentDir,
        launch: &Launch,
        image: &ProgramImage,
        port: u16,
    ) -> Result<ProcessTree> {
        let docker = self.docker()?;
        environment.remove_git_mount_point(&launch.release).await?;
        let name = format!("run-{port}");
        let mut spec = self.container(environment, launch, image, &name).await?;
        let container_port = image.port.unwrap_or(port);
        spec.variables.insert("PORT".to_owned(), container_port.to_string());
        spec.variables.insert("HOST".to_owned(), "0.0.0.0".to_owned());
        if self.proxied_url(environment).await.is_some() {
            spec.variables.insert("ROUTES".to_owned(), "yes".to_owned());
        } else {
            let address = self.settings.bind;
            spec.published = Some(PortBinding { address, port, container_port });
        }
        let started = docker.start_container(spec).await?;
        let running = environment.record().await.release;
        ProgramLog::create_for_container(launch.start(environment, &running), &started.id)?;
        let address = SocketAddr::new(started.address.into(), container_port);
        let process =
            started.pid.and_then(|pid| Self::process_of(environment, pid, &name, &started.id));
        let process = process.map(|it| it.at(address));
        let Some(process) = process else {
            let code = docker.wait_for_end(&started.id).await?;
            let output = quote_output(&docker.last_output(&started.id).await, &launch.secrets());
            bail!("the program ended before it was healthy (exit status: {code}); {output}");
        };
        let guard = OrphanGuard::new(&process);
        environment.write_starting_process(&process)?;
        let program = StartingProgram::Container { docker, process: &process };
        if let Err(error) = wait_until_healthy(launch, address, program).await {
            process.kill_and_wait().await;
            // The caller removes the container.
            let state = docker.container_state(&started.id).await.ok().flatten();
            let limit_mb = launch.limits.memory_mb;
            let has_exceeded = state.is_some_and(|it| it.has_exceeded_memory);
            return Err(if has_exceeded {
                error.context(MemoryLimitExceeded::Program { limit_mb })
            } else {
                error
            });
        }
        guard.keep();
        Ok(process)
    }

    /// Returns a container of an environment with its code, if the image does not contain it, and its data.
    /// `name` is that of the directory of its temporary files.
    pub(super) async fn container(
        &self,
        environment: &EnvironmentDir,
        launch: &Launch,
        image: &ProgramImage,
        name: &str,
    ) -> Result<ContainerSpec> {
        let account = self.sandbox.accounts.get(environment);
        let account = account.context("the environment has no account of its own")?;
        let files = environment.create_sandbox(&self.sandbox.accounts, name).await?;
        let mut mounts = vec![
            // Not a volume of the engine: one whose containers have outlived the engine cannot be removed
            // (Docker 20.10).
            ("/data", MountSource::Directory(environment.data())),
            ("/tmp", MountSource::Directory(files.tmp)),
        ];
        let mut variables = BTreeMap::from([
            ("HOME".to_owned(), "/data".to_owned()),
            ("DATA_DIR".to_owned(), "/data".to_owned()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ]);
        variables.extend(self.recipe_variables(launch, image)?);
        variables.extend(launch.variables.clone());
        if !image.has_program {
            let code = environment.release_dir(&launch.release)?;
            mounts.push(("/app", MountSource::Directory(code)));
        }
        let command = match &*launch.command {
            "" => Command::OfImage,
            command => Command::Shell(command.to_owned()),
        };
        Ok(ContainerSpec {
            environment: environment.id(),
            version: launch.release.clone(),
            image: image.id.clone(),
            command,
            working_dir: (!image.has_program).then_some("/app"),
            variables,
            mounts,
            account,
            limits: container_limits(launch.limits),
            published: None,
        })
    }

    pub(super) fn process_of(
        environment: &EnvironmentDir,
        pid: u32,
        name: &str,
        id: &str,
    ) -> Option<ProcessTree> {
        let status_file = environment.path().join("sandboxes").join(name).join("status");
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        ProcessTree::of_container(pid, status_file, ContainerRef { id: id.to_owned(), address })
    }

    /// Returns how the program in a container has ended.
    pub(super) async fn container_end(
        &self,
        container: &ContainerRef,
        launch: Option<&Launch>,
    ) -> ProgramEnd {
        let Some(docker) = &self.docker else { return ProgramEnd::default() };
        // The engine notices the end of a process a little later than the runner.
        let _ = tokio::time::timeout(END_TIMEOUT, docker.wait_for_end(&container.id)).await;
        let state = docker.container_state(&container.id).await.ok().flatten().unwrap_or_default();
        let limit_mb = launch.map(|it| it.limits.memory_mb);
        ProgramEnd {
            exit_code: state.exit_code,
            exceeded_memory_mb: limit_mb.filter(|_| state.has_exceeded_memory),
        }
    }

    /// Returns the last output of a deployed program, without its secrets.
    pub(super) async fn quote_last_output(
        &self,
        environment: &EnvironmentDir,
        record: &EnvironmentRecord,
    ) -> String {
        let Some(launch) = environment.launch().await else { return String::new() };
        let container = record.process.as_ref().and_then(ProcessTree::container);
        if let Some((docker, container)) = self.docker.as_ref().zip(container) {
            return quote_output(&docker.last_output(&container.id).await, &launch.secrets());
        }
        let log = ProgramLog::last(environment, &record.release);
        log.map(|log| log.quote(&launch.secrets())).unwrap_or_default()
    }

    /// Measures the files that containers write outside of their data.
    pub(super) async fn measure_containers(&self) {
        let Some(docker) = &self.docker else { return };
        if let Err(error) = docker.measure_written().await {
            let error = format!("{error:#}");
            tracing::warn!(error, "the disk usage of containers cannot be measured");
        }
    }

    /// Returns the last measured disk usage of an environment.
    pub(super) fn disk_usage(&self, environment: &EnvironmentDir) -> DiskUsage {
        let mut usage = self.usage.disk(environment.id());
        usage.bytes += self.docker.as_ref().map_or(0, |it| it.written_bytes(environment.id()));
        usage
    }

    /// Stops processes, removes containers and releases ports that a crashed runner left behind.
    pub(super) async fn stop_leftovers(&self, environment: &EnvironmentDir) {
        environment.stop_leftovers().await;
        let record = environment.record().await;
        self.release_other_ports(environment, record.port).await;
        self.remove_other_containers(environment, &record).await;
        if let Some(docker) = &self.docker {
            docker.remove_recorded_layers(&environment.layers()).await;
        }
    }

    /// Removes the containers of an environment, but for those of the recorded programs.
    pub(super) async fn remove_other_containers(
        &self,
        environment: &EnvironmentDir,
        record: &EnvironmentRecord,
    ) {
        let Some(docker) = &self.docker else { return };
        let recorded = record.process.iter().chain(&record.previous);
        let kept: Vec<_> = recorded.filter_map(|it| Some(&*it.container()?.id)).collect();
        ProgramLog::archive_containers(environment, &docker.output(), &kept).await;
        if let Err(error) = docker.remove_containers(environment.id(), &kept).await {
            let error = format!("{error:#}");
            tracing::warn!(environment = %environment.id(), error, "ended containers not removed yet");
        }
    }

    /// Removes the containers of an environment that could not be removed when they ended, unless a task has
    /// locked it.
    pub(super) async fn remove_late(&self, environment: &EnvironmentDir) {
        let Some(docker) = &self.docker else { return };
        if docker.has_ended_containers(environment.id())
            && docker.is_answering().await
            && let Some(_lock) = self.locks.try_lock(environment.id())
        {
            self.stop_leftovers(environment).await;
        }
    }

    /// Removes the images of versions to which no rollback is possible. If that fails, the next deployment
    /// removes them.
    pub(super) async fn remove_old_images(
        &self,
        environment: &EnvironmentDir,
        record: &EnvironmentRecord,
    ) {
        let Some(docker) = &self.docker else { return };
        let removed = docker.remove_images(environment.id(), record.kept_releases()).await;
        if let Err(error) = removed {
            let error = format!("{error:#}");
            tracing::warn!(environment = %environment.id(), error, "old images not removed yet");
        }
    }
}

fn container_limits(limits: ResourceLimits) -> ContainerLimits {
    ContainerLimits {
        memory_bytes: limits.memory_bytes(),
        cpu_cores: limits.cpu_cores,
        processes: PROCESSES_MAX,
        disk_bytes: limits.disk_bytes(),
    }
}
