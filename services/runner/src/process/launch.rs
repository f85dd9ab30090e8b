//! Start of a deployed program: command, version, environment variables and resource limits.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use api::project::Lease;
use serde::{Deserialize, Serialize};

use super::{
    Processes,
    bubblewrap::{Access, Mount},
    directory::EnvironmentDir,
    health::{self, StartingProgram},
    limits::{MemoryLimitExceeded, ResourceLimits},
    log::{ProgramLog, StartOfProgram},
    manifest::Manifest,
    process_tree::ProcessTree,
    record::EnvironmentRecord,
    sandbox::{Input, NetworkAccess, Output, PATH, SandboxCommand},
};
use crate::{driver::ProgressReporter, secrets::Secrets};

/// Default time within which a program must pass its health check after its start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Parameters of a program's start. Written to a file for restarts; contains secrets.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Launch {
    /// Shell command.
    pub(super) command: String,
    /// Deployment whose code is run.
    pub(super) release: String,
    /// Path of the health check: a status below 500 means healthy.
    pub(super) health: String,
    /// Time within which the program must be healthy after its start.
    #[serde(default = "default_timeout")]
    pub(super) timeout: Duration,
    pub(super) variables: BTreeMap<String, String>,
    /// Names of the variables that are not secret.
    #[serde(default)]
    public_variables: BTreeSet<String>,
    /// Address of the connected server; empty on a shared one.
    #[serde(default)]
    pub(super) server_address: String,
    pub(super) limits: ResourceLimits,
    /// `None`: the program runs in a sandbox.
    #[serde(default)]
    pub(super) image: Option<ProgramImage>,
}

/// Image of the container of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProgramImage {
    /// Id in the engine.
    pub(super) id: String,
    /// TCP port on which its program listens; `None`: that of `$PORT`.
    pub(super) port: Option<u16>,
    /// False: the code is mounted, and run by a command of the manifest.
    pub(super) has_program: bool,
    /// Recipe whose commands run in it, as `name` or `name:version`.
    #[serde(default)]
    pub(super) recipe: Option<String>,
}

fn default_timeout() -> Duration {
    START_TIMEOUT
}

impl Launch {
    /// Returns the parameters for a version, with the variables and limits of a lease.
    pub(super) fn new(
        lease: &Lease,
        release: &str,
        manifest: &Manifest,
        image: Option<ProgramImage>,
    ) -> Self {
        let variables = lease.variables.iter().map(|it| (it.name.clone(), it.value.clone()));
        let public = lease.variables.iter().filter(|it| !it.secret);
        Self {
            command: manifest.run.clone(),
            release: release.to_owned(),
            health: manifest.health_path().to_owned(),
            timeout: manifest.start_timeout(START_TIMEOUT),
            variables: variables.collect(),
            public_variables: public.map(|it| it.name.clone()).collect(),
            server_address: lease.server_address.clone(),
            limits: ResourceLimits::of(lease.resources),
            image,
        }
    }

    /// Description of the command for the task's log.
    pub(super) fn description(&self) -> String {
        let recipe = self.image.as_ref().and_then(|it| it.recipe.as_ref());
        match recipe {
            Some(recipe) => format!("the recipe {recipe}"),
            None if self.command.is_empty() => "the command of the image".to_owned(),
            None => format!("`{}`", self.command),
        }
    }

    /// Returns the secrets that the program can print.
    pub(super) fn secrets(&self) -> Secrets {
        let variables = self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Secrets::new(variables.filter(|it| !self.public_variables.contains(it.0)))
    }

    /// Returns a start of the program, beside the deployment `running`.
    pub(super) fn start<'a>(
        &'a self,
        environment: &'a EnvironmentDir,
        running: &'a str,
    ) -> StartOfProgram<'a> {
        let mut secrets = self.variables.clone();
        secrets.retain(|name, _| !self.public_variables.contains(name));
        StartOfProgram { environment, release: &self.release, running, secrets }
    }

    /// Replaces the variables by those of an earlier launch, but for the connections of add-ons, whose
    /// passwords may have changed since. Returns the names of the variables that differ from the current
    /// ones.
    pub(super) fn restore_variables(&mut self, earlier: &Self, lease: &Lease) -> Vec<String> {
        let current = std::mem::replace(&mut self.variables, earlier.variables.clone());
        self.public_variables.clone_from(&earlier.public_variables);
        for provision in &lease.provisions {
            match current.get(&provision.variable) {
                Some(url) => self.variables.insert(provision.variable.clone(), url.clone()),
                None => self.variables.remove(&provision.variable),
            };
        }
        let names: BTreeSet<_> = current.keys().chain(self.variables.keys()).collect();
        let differs = |it: &&&String| current.get(**it) != self.variables.get(**it);
        names.iter().filter(differs).map(|it| (*it).clone()).collect()
    }
}

impl Processes {
    /// Returns a shell command in an environment's sandbox, with its code at `/app` and its data at `/data`.
    pub(super) fn shell<'a>(
        environment: &'a EnvironmentDir,
        launch: &Launch,
        command: &str,
    ) -> Result<SandboxCommand<'a>> {
        let defaults =
            [("PATH", PATH), ("HOME", "/data"), ("DATA_DIR", "/data"), ("LANG", "C.UTF-8")];
        let mut variables: BTreeMap<_, _> =
            defaults.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        variables.extend(launch.variables.clone());
        Ok(SandboxCommand {
            environment,
            mounts: vec![
                Mount::new(environment.release_dir(&launch.release)?, "/app", Access::ReadWrite),
                Mount::new(environment.data(), "/data", Access::ReadWrite),
            ],
            working_dir: "/app",
            variables,
            arguments: ["/bin/sh", "-c", command].map(str::to_owned).into(),
            limits: launch.limits,
            input: Input::Empty,
            network: NetworkAccess::Environment,
        })
    }

    /// Returns the parameters for a version that was built before, with the variables of a lease.
    pub(super) async fn launch_of(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        release: &str,
    ) -> Result<Launch> {
        let image = environment.release_launch(release).await.and_then(|it| it.image);
        let context = self.context_of_built(image.as_ref())?;
        let manifest = Manifest::read(environment, release, &context)?;
        Ok(Launch::new(lease, release, &manifest, image))
    }

    /// Starts the deployed version on an unused port, because another program may have the previous one by
    /// now.
    pub(super) async fn start_release(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        record: &mut EnvironmentRecord,
        report: &ProgressReporter,
    ) -> Result<String> {
        ensure!(!record.release.is_empty(), "nothing is deployed; deploy the environment first");
        let launch = self.launch_of(lease, environment, &record.release).await?;
        let port = self.reserve_port(environment, &launch, None).await?;
        let started = self.start_program(environment, &launch, port).await;
        let kept = if started.is_ok() { port } else { record.port };
        self.release_other_ports(environment, kept).await;
        if let Err(error) = &started {
            log_memory_limit(error, report).await;
        }
        record.set_started(started?, port);
        environment.write_release_launch(&launch).await?;
        environment.write_record(record).await?;
        environment.clear_starting_process().await;
        self.remove_other_containers(environment, record).await;
        self.store_hostname(environment, lease).await?;
        self.sync_proxy().await;
        self.url(environment, record, &lease.server_address).await
    }

    /// Starts a version and waits until it is healthy. A version that is already running is not affected.
    pub(super) async fn start_program(
        &self,
        environment: &EnvironmentDir,
        launch: &Launch,
        port: u16,
    ) -> Result<ProcessTree> {
        if let Some(image) = &launch.image {
            let started = self.start_in_container(environment, launch, image, port).await;
            if started.is_err() {
                self.remove_other_containers(environment, &environment.record().await).await;
            }
            return started;
        }
        let network = self.sandbox.network.attach(environment).await?;
        environment.remove_git_mount_point(&launch.release).await?;
        let mut command = Self::shell(environment, launch, &launch.command)?;
        command.variables.insert("PORT".to_owned(), port.to_string());
        command.variables.insert("HOST".to_owned(), network.listen.to_string());
        let running = environment.record().await.release;
        let start = launch.start(environment, &running);
        let account = self.sandbox.accounts.of_logs()?;
        let (log, writer, output) = ProgramLog::create(start, account)?;
        if let Some(pid) = writer.pid() {
            let limited = self.sandbox.limiter.apply_to_log_writer(pid);
            limited.context("the control group of a log cannot be set")?;
        }
        let output = Output { stdout: output.try_clone()?.into(), stderr: output.into() };
        let group = format!("run-{port}");
        let mut sandboxed = self.sandbox.spawn(&group, command, output).await?;
        let address = SocketAddr::new(network.address, port);
        let program = StartingProgram::Sandbox { sandboxed: &mut sandboxed, log: &log, writer };
        let healthy = health::wait_until_healthy(launch, address, program).await;
        if let Err(error) = healthy {
            let process = &sandboxed.process;
            return Err(
                match self.sandbox.memory_limit_exceeded(environment, process, launch.limits) {
                    Some(cause) => error.context(cause),
                    None => error,
                },
            );
        }
        sandboxed.guard.keep();
        Ok(sandboxed.process)
    }
}

/// Logs the error of a start if the program exceeded its memory limit.
pub(super) async fn log_memory_limit(error: &anyhow::Error, report: &ProgressReporter) {
    if let Some(exceeded) = error.downcast_ref::<MemoryLimitExceeded>() {
        report.log(vec![exceeded.to_string()]).await;
    }
}
