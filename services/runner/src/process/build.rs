//! Building of versions: the build command in the sandbox, its output, its time and disk limits.

use std::{
    collections::VecDeque,
    convert::Infallible,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use api::project::Lease;
use tokio::{io::AsyncRead, net::unix::pipe};
use tokio_util::sync::CancellationToken;

use super::{
    DEPLOY_STEPS, Processes,
    bubblewrap::{Access, Mount},
    container_command::ContainerCommand,
    directory::EnvironmentDir,
    launch::{Launch, ProgramImage},
    limits::MemoryLimitExceeded,
    manifest::{Manifest, Program},
    release::Checkout,
    sandbox::Output,
    usage::disk_limit_exceeded,
};
use crate::{driver::ProgressReporter, text::BoundedLines};

/// Timeout of a build.
pub(super) const BUILD_TIMEOUT: Duration = Duration::from_secs(1_800);

/// Interval at which the output of a build is reported.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// Time in which the rest of a build's output is read after its end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Number of output lines of a build that are reported at once, even before [`REPORT_INTERVAL`] ends.
const BATCH_LINES_MAX: usize = 1_000;

/// Size of the output of a build that is reported at once, in bytes.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Number of the last output lines that the error of a failed build contains.
const ERROR_LINES: usize = 20;

/// A version that was built.
pub(super) struct BuiltVersion {
    pub(super) manifest: Manifest,
    /// `None`: the program runs in a sandbox.
    pub(super) image: Option<ProgramImage>,
}

impl Processes {
    /// Builds a version: by the build command of its manifest, or by its Dockerfile. The output goes to the
    /// task's log. Returns the manifest as it is after the build, which may generate it.
    pub(super) async fn build(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        checkout: &Checkout,
        report: &ProgressReporter,
    ) -> Result<BuiltVersion> {
        let mut context = self.context_of_new(lease);
        let manifest = Manifest::read(environment, &lease.release, &context)?;
        report.log(manifest.notices.clone()).await;
        if checkout.is_built {
            report.step("build", 2, DEPLOY_STEPS, "no build required").await;
            let launch = environment.release_launch(&lease.release).await;
            return Ok(BuiltVersion { manifest, image: launch.and_then(|it| it.image) });
        }
        if let Program::Recipe(recipe) = &manifest.program {
            self.require_database(lease, recipe)?;
            // The same one after the build, which may generate another manifest.
            context.default_recipe = Some(recipe.clone());
        }
        let image = match self.image_before_build(&manifest).await? {
            None if manifest.program == Program::Dockerfile => {
                Some(self.build_dockerfile(lease, environment, report).await?)
            }
            image => image,
        };
        let Some(command) = &manifest.build else {
            if manifest.program != Program::Dockerfile {
                report.step("build", 2, DEPLOY_STEPS, "no build required").await;
            }
            return Ok(BuiltVersion { manifest, image });
        };
        let line = match &manifest.program {
            Program::Recipe(recipe) => format!("building: recipe {recipe}"),
            _ => format!("building: {command}"),
        };
        report.step("build", 2, DEPLOY_STEPS, line).await;
        let mut launch = Launch::new(lease, &lease.release, &manifest, image.clone());
        launch.limits = self.build_limits(lease);
        if let Some(image) = &image {
            let command = ContainerCommand {
                name: "build",
                command,
                data: environment.data(),
                git_dir: Some(environment.git_dir(&launch.release)?),
            };
            self.run_in_container(environment, &launch, image, command, report).await?;
        } else {
            self.build_in_sandbox(environment, &launch, command, report).await?;
        }
        let manifest = Manifest::read(environment, &lease.release, &context)?;
        Ok(BuiltVersion { manifest, image })
    }

    /// Runs a build command in a sandbox.
    async fn build_in_sandbox(
        &self,
        environment: &EnvironmentDir,
        launch: &Launch,
        command: &str,
        report: &ProgressReporter,
    ) -> Result<()> {
        let mut command = Self::shell(environment, launch, command)?;
        // Builds determine versions with git. Programs do not see the repository.
        let git_dir = environment.git_dir(&launch.release)?;
        command.mounts.push(Mount::new(git_dir, "/app/.git", Access::ReadOnly));
        let (reader, writer) = std::io::pipe()?;
        let output =
            Output { stdout: Stdio::from(writer.try_clone()?), stderr: Stdio::from(writer) };
        let mut sandboxed = self.sandbox.spawn("build", command, output).await?;
        let process = sandboxed.process.clone();
        let memory_kills = self.sandbox.memory_kills(environment, "build");
        let reader = pipe::Receiver::from_owned_fd(reader.into())?;
        let has_ended = CancellationToken::new();
        let wait = async {
            let status = sandboxed.wait().await;
            has_ended.cancel();
            status
        };
        let build = async { tokio::join!(report_output(reader, report, &has_ended), wait) };
        // A build could go on without the killed process for a long time, and fail by another error.
        let kill_at_memory_limit = async {
            memory_kills.wait().await;
            process.kill();
            // `build` continues with the rest of the output.
            std::future::pending::<Infallible>().await
        };
        let build_within_limits = async {
            tokio::select! {
                (last_lines, status) = build => Ok((last_lines, status?)),
                error = disk_limit_exceeded(environment, launch.limits) => Err(error),
                never = kill_at_memory_limit => match never {},
            }
        };
        let result = tokio::time::timeout(BUILD_TIMEOUT, build_within_limits).await;
        let (last_lines, status) = result.context("the build did not end within 30 minutes")??;
        environment.clear_starting_process().await;
        environment.remove_sandbox("build").await?;
        if memory_kills.is_any() {
            let limit_mb = launch.limits.memory_mb;
            let error = MemoryLimitExceeded::Build { limit_mb };
            report.log(vec![error.to_string()]).await;
            bail!("{error}; the last output of the build:\n{last_lines}");
        }
        ensure!(status.success(), "the build failed ({status}); its last output:\n{last_lines}");
        Ok(())
    }
}

/// Reports the output of a build line by line, in batches, until the pipe is closed, or until two seconds
/// after the build has ended. Returns the last [`ERROR_LINES`] lines.
pub(super) async fn report_output(
    reader: impl AsyncRead + Unpin,
    report: &ProgressReporter,
    has_ended: &CancellationToken,
) -> String {
    let drain_end = async {
        has_ended.cancelled().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::pin!(drain_end);
    let mut lines = BoundedLines::new(reader);
    let mut batch = vec![];
    let mut batch_bytes = 0;
    let mut last_lines = VecDeque::new();
    let mut reported_at = Instant::now();
    loop {
        let line = tokio::select! {
            line = tokio::time::timeout(REPORT_INTERVAL, lines.next()) => line,
            () = &mut drain_end => Ok(Ok(None)),
        };
        let has_ended = matches!(line, Ok(Ok(None) | Err(_)));
        if let Ok(Ok(Some(line))) = line {
            last_lines.push_back(line.clone());
            if last_lines.len() > ERROR_LINES {
                last_lines.pop_front();
            }
            batch_bytes += line.len();
            batch.push(line);
        }
        let is_full = batch.len() >= BATCH_LINES_MAX || batch_bytes >= BATCH_BYTES_MAX;
        let is_due = has_ended || is_full || reported_at.elapsed() > REPORT_INTERVAL;
        if is_due && !batch.is_empty() {
            batch_bytes = 0;
            report.log(std::mem::take(&mut batch)).await;
            reported_at = Instant::now();
        }
        if has_ended {
            break;
        }
    }
    last_lines.iter().map(|it| report.redacted(it)).collect::<Vec<_>>().join("\n")
}
