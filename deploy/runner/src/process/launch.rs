//! The launch of a deployed program: command, version, variables and limits.

use std::{
    collections::BTreeMap, net::SocketAddr, os::unix::fs::OpenOptionsExt, process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use api::project::Lease;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Processes,
    bubblewrap::{Access, Mount},
    directory::EnvironmentDir,
    http,
    limits::ResourceLimits,
    manifest::Manifest,
    process_tree::ProcessTree,
    sandbox::{Input, Output, PATH, SandboxCommand},
};

/// Interval of asking a program that starts whether it serves.
const HEALTH_INTERVAL: Duration = Duration::from_millis(25);

/// A program to start. Kept for restarts; it holds secrets.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Launch {
    pub(super) command: String,
    /// The deployment whose code it is.
    pub(super) release: String,
    /// The path that answers with a status below 500 when it serves.
    pub(super) health: String,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) limits: ResourceLimits,
}

impl Launch {
    /// The launch of a version with the variables and limits of a lease.
    pub(super) fn new(lease: &Lease, release: &str, manifest: &Manifest) -> Self {
        let variables = lease.variables.iter().map(|it| (it.name.clone(), it.value.clone()));
        Self {
            command: manifest.run.clone(),
            release: release.to_owned(),
            health: manifest.health.clone(),
            variables: variables.collect(),
            limits: ResourceLimits::of(lease.resources),
        }
    }
}

impl Processes {
    /// A shell command inside an environment, with its code at `/app` and its data at `/data`.
    pub(super) fn shell<'a>(
        environment: &'a EnvironmentDir,
        launch: &Launch,
        command: &str,
    ) -> Result<SandboxCommand<'a>> {
        let own = [("PATH", PATH), ("HOME", "/data"), ("DATA_DIR", "/data"), ("LANG", "C.UTF-8")];
        let mut variables: BTreeMap<_, _> =
            own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        variables.extend(launch.variables.clone());
        Ok(SandboxCommand {
            environment,
            mounts: vec![
                Mount::new(environment.release(&launch.release)?, "/app", Access::ReadWrite),
                Mount::new(environment.data(), "/data", Access::ReadWrite),
            ],
            working_dir: "/app",
            variables,
            arguments: ["/bin/sh", "-c", command].map(str::to_owned).into(),
            limits: launch.limits,
            input: Input::Empty,
        })
    }

    /// Starts a version beside what runs and waits until it serves.
    pub(super) async fn serve(
        &self,
        environment: &EnvironmentDir,
        launch: &Launch,
        port: u16,
        timeout: Duration,
    ) -> Result<ProcessTree> {
        let network = self.sandbox.network.attach(environment).await?;
        let mut command = Self::shell(environment, launch, &launch.command)?;
        command.variables.insert("PORT".to_owned(), port.to_string());
        command.variables.insert("HOST".to_owned(), network.listen.to_string());
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(environment.log());
        let log = log.context("the log cannot be written")?;
        let output = Output { stdout: Stdio::from(log.try_clone()?), stderr: Stdio::from(log) };
        let group = format!("run-{port}");
        let mut sandboxed = self.sandbox.spawn(&group, command, output).await?;
        let address = SocketAddr::new(network.address, port);
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = sandboxed.child.try_wait()? {
                let output = environment.last_lines().await;
                bail!("the program ended before it served ({status}); {output}");
            }
            match http::get_status(address, &launch.health).await {
                Some(status) if status < 500 => {
                    sandboxed.guard.keep();
                    return Ok(sandboxed.process);
                }
                answer if Instant::now() > deadline => {
                    sandboxed.process.stop().await;
                    let output = environment.last_lines().await;
                    match answer {
                        Some(status) => bail!("it answers with HTTP status {status}; {output}"),
                        None => {
                            bail!("it does not answer on $HOST:$PORT ({address}); {output}")
                        }
                    }
                }
                _ => tokio::time::sleep(HEALTH_INTERVAL).await,
            }
        }
    }
}
