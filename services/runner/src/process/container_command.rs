//! Commands of tasks, each in a container of its own with the code of a version: builds, and commands of
//! recipes. The output is the task's log.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use tokio_util::{io::StreamReader, sync::CancellationToken};

use super::{
    Processes,
    build::{BUILD_TIMEOUT, report_output},
    directory::EnvironmentDir,
    launch::{Launch, ProgramImage},
    limits::{MemoryKills, MemoryLimitExceeded},
    process_tree::{OrphanGuard, ProcessTree},
    usage::disk_limit_exceeded,
};
use crate::{
    docker::{Command, MountSource},
    driver::ProgressReporter,
};

/// A command of a task.
pub(super) struct ContainerCommand<'a> {
    /// Name in errors, and of the directory of its temporary files.
    pub(super) name: &'static str,
    /// Shell command.
    pub(super) command: &'a str,
    /// Data of the environment, at `/data`.
    pub(super) data: PathBuf,
    /// Repository of the code, at `/app/.git`: builds determine versions with git.
    pub(super) git_dir: Option<PathBuf>,
}

impl Processes {
    /// Runs a command in a container of an image, within the limits of a launch, and in 30 minutes.
    pub(super) async fn run_in_container(
        &self,
        environment: &EnvironmentDir,
        launch: &Launch,
        image: &ProgramImage,
        command: ContainerCommand<'_>,
        report: &ProgressReporter,
    ) -> Result<()> {
        let docker = self.docker()?;
        let ContainerCommand { name, command, data, git_dir } = command;
        let mut spec = self.container(environment, launch, image, name).await?;
        spec.command = Command::Shell(command.to_owned());
        spec.mounts.retain(|it| it.0 != "/data");
        spec.mounts.push(("/data", MountSource::Directory(data)));
        let git_dir = git_dir.map(|it| ("/app/.git", MountSource::ReadOnlyDirectory(it)));
        spec.mounts.extend(git_dir);
        let started = docker.start_container(spec).await?;
        let process =
            started.pid.and_then(|pid| Self::process_of(environment, pid, name, &started.id));
        let guard = process.as_ref().map(OrphanGuard::new);
        if let Some(process) = &process {
            environment.write_starting_process(process)?;
        }
        let has_ended = CancellationToken::new();
        let wait = async {
            let code = docker.wait_for_end(&started.id).await;
            has_ended.cancel();
            code
        };
        let output = StreamReader::new(Box::pin(docker.follow_output(&started.id)));
        let run = async { tokio::join!(report_output(output, report, &has_ended), wait) };
        // The engine reports the kill of a process only when the container ends, and not always.
        let kills = process.as_ref().map(|it| MemoryKills::of_process(it.pid()));
        let is_memory_exceeded = CancellationToken::new();
        let memory_exceeded = async {
            match &kills {
                Some(kills) => kills.wait().await,
                None => std::future::pending().await,
            }
            is_memory_exceeded.cancel();
            // A build could go on without the killed process for a long time, and fail by another error.
            process.iter().for_each(ProcessTree::kill);
        };
        let run_within_limits = async {
            tokio::pin!(run);
            tokio::select! {
                (last_lines, code) = &mut run => anyhow::Ok((last_lines, code?)),
                () = memory_exceeded => {
                    let (last_lines, code) = run.await;
                    Ok((last_lines, code?))
                }
                error = disk_limit_exceeded(environment, launch.limits) => Err(error),
            }
        };
        let result = tokio::time::timeout(BUILD_TIMEOUT, run_within_limits).await;
        let state = docker.container_state(&started.id).await?;
        let has_exceeded_memory =
            is_memory_exceeded.is_cancelled() || state.is_some_and(|it| it.has_exceeded_memory);
        drop(guard);
        docker.remove_container(&started.id).await?;
        let (last_lines, code) =
            result.with_context(|| format!("the {name} did not end within 30 minutes"))??;
        environment.clear_starting_process().await;
        environment.remove_sandbox(name).await?;
        if has_exceeded_memory {
            let error = MemoryLimitExceeded::Build { limit_mb: launch.limits.memory_mb };
            report.log(vec![error.to_string()]).await;
            bail!("{error}; the last output of the {name}:\n{last_lines}");
        }
        ensure!(
            code == 0,
            "the {name} failed (exit status: {code}); its last output:\n{last_lines}"
        );
        Ok(())
    }
}
