//! Start of a deployed program: command, version, environment variables and resource limits.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    process::Stdio,
    time::Duration,
};

use anyhow::{Result, ensure};
use api::project::Lease;
use serde::{Deserialize, Serialize};

use super::{
    Processes,
    bubblewrap::{Access, Mount},
    directory::EnvironmentDir,
    health,
    limits::{MemoryLimitExceeded, ResourceLimits},
    log::ProgramLog,
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
}

fn default_timeout() -> Duration {
    START_TIMEOUT
}

impl Launch {
    /// Returns the parameters for a version, with the variables and limits of a lease.
    pub(super) fn new(lease: &Lease, release: &str, manifest: &Manifest) -> Self {
        let variables = lease.variables.iter().map(|it| (it.name.clone(), it.value.clone()));
        let public = lease.variables.iter().filter(|it| !it.secret);
        Self {
            command: manifest.run.clone(),
            release: release.to_owned(),
            health: manifest.health.clone(),
            timeout: manifest.start_timeout(START_TIMEOUT),
            variables: variables.collect(),
            public_variables: public.map(|it| it.name.clone()).collect(),
            server_address: lease.server_address.clone(),
            limits: ResourceLimits::of(lease.resources),
        }
    }

    /// Returns the secrets that the program can print.
    pub(super) fn secrets(&self) -> Secrets {
        let is_secret = |it: &(&str, &str)| !self.public_variables.contains(it.0);
        let variables = self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Secrets::new(variables.filter(is_secret))
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
        let manifest = Manifest::read(environment, &record.release)?;
        let launch = Launch::new(lease, &record.release, &manifest);
        let port = self.reserve_port(environment, None).await?;
        let started = self.start_program(environment, &launch, port).await;
        let unused_port = if started.is_ok() { record.port } else { port };
        if record.port != port {
            self.release_port(environment, unused_port).await;
        }
        if let Err(error) = &started {
            log_memory_limit(error, report).await;
        }
        record.set_started(started?, port);
        environment.write_release_launch(&launch).await?;
        environment.write_record(record).await?;
        environment.clear_starting_process().await;
        self.store_hostname(environment, lease).await?;
        self.sync_proxy().await;
        self.url(environment, port, &lease.server_address).await
    }

    /// Starts a version and waits until it is healthy. A version that is already running is not affected.
    pub(super) async fn start_program(
        &self,
        environment: &EnvironmentDir,
        launch: &Launch,
        port: u16,
    ) -> Result<ProcessTree> {
        let network = self.sandbox.network.attach(environment).await?;
        environment.remove_git_mount_point(&launch.release).await?;
        let mut command = Self::shell(environment, launch, &launch.command)?;
        command.variables.insert("PORT".to_owned(), port.to_string());
        command.variables.insert("HOST".to_owned(), network.listen.to_string());
        let running = environment.record().await.release;
        let (log, file) = ProgramLog::create(environment, &launch.release, &running)?;
        let output = Output { stdout: Stdio::from(file.try_clone()?), stderr: Stdio::from(file) };
        let group = format!("run-{port}");
        let mut sandboxed = self.sandbox.spawn(&group, command, output).await?;
        let address = SocketAddr::new(network.address, port);
        let healthy = health::wait_until_healthy(&log, launch, address, &mut sandboxed).await;
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
