//! Copy of an environment to another one of this machine: data, databases, and the deployed version (the
//! release).

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use api::project::Lease;

use super::{
    Processes,
    bubblewrap::{Access, Mount},
    database,
    directory::EnvironmentDir,
    limits::ResourceLimits,
    process_tree::ProcessTree,
    record::DesiredState,
    sandbox::{Input, Output, PATH, SandboxCommand},
};
use crate::{
    driver::{ProgressReporter, TaskOutcome},
    text::read_bounded,
};

/// Timeout of copying files or databases.
const COPY_TIMEOUT: Duration = Duration::from_secs(1_800);

/// Maximum length of a tool's error output, in bytes.
const ERROR_BYTES_MAX: usize = 8 << 10;

/// Copy of a directory from one environment to another.
struct DirectoryCopy<'a> {
    source: &'a EnvironmentDir,
    source_path: PathBuf,
    target: &'a EnvironmentDir,
    target_path: PathBuf,
    limits: ResourceLimits,
}

impl Processes {
    /// Replaces data and version of the lease's environment by those of the environment
    /// `source_environment_id`. The caller must have locked both.
    pub(super) async fn copy_environment(
        &self,
        lease: &Lease,
        report: &ProgressReporter,
    ) -> Result<TaskOutcome> {
        let source = self.environment(&lease.source_environment_id)?;
        let target = self.environment(&lease.environment_id)?;
        let source_record = source.record().await;
        let is_unchanged = source_record.release == lease.source_release;
        ensure!(is_unchanged, "the version of the source has changed meanwhile; copy it again");
        target.prepare(&self.sandbox.accounts).await?;
        // The returned lease also has the variables through which the program finds its add-ons.
        let lease = &self.provision_addons(lease, report).await?;
        let mut target_record = target.record().await;
        report.step("copy", 1, 3, "copying the data").await;
        let target_process = target_record.set_stopped();
        target.write_record(&target_record).await?;
        if let Some(process) = target_process {
            process.stop().await;
        }
        // The source is frozen while it is copied, so that the copy is consistent.
        let source_process = source_record.process.clone().filter(ProcessTree::is_alive);
        let source_process =
            source_process.filter(|_| source_record.desired == DesiredState::Running);
        let frozen = FrozenProcess::new(source_process);
        self.copy_files(lease, &source, &target, &source_record.release).await?;
        let copied = tokio::time::timeout(COPY_TIMEOUT, self.copy_databases(lease, &target)).await;
        copied.context("copying the databases did not end within 30 minutes")??;
        drop(frozen);
        target_record.release = lease.release.clone();
        target_record.commit = source_record.commit.clone();
        target_record.releases.push(lease.release.clone());
        // The copy needs a port of its own, which is chosen when it starts.
        target_record.port = 0;
        target.write_record(&target_record).await?;
        if source_record.desired == DesiredState::Stopped {
            return Ok(TaskOutcome { commit: target_record.commit, ..TaskOutcome::default() });
        }
        report.step("start", 2, 3, "starting the copy").await;
        let url = self.start_release(lease, &target, &mut target_record).await?;
        report.step("done", 3, 3, format!("running at {url}")).await;
        Ok(TaskOutcome { commit: target_record.commit, url, ..TaskOutcome::default() })
    }

    async fn copy_files(
        &self,
        lease: &Lease,
        source: &EnvironmentDir,
        target: &EnvironmentDir,
        release: &str,
    ) -> Result<()> {
        let limits = ResourceLimits::of(lease.resources);
        let directories = [
            (source.data(), target.incoming_data()),
            (source.release_dir(release)?, target.release_dir(&lease.release)?),
        ];
        for (source_path, target_path) in directories {
            target.create_account_directory(&self.sandbox.accounts, &target_path).await?;
            let copy = DirectoryCopy { source, source_path, target, target_path, limits };
            self.copy_directory(copy).await.context("the files cannot be copied")?;
        }
        target.replace_data().await
    }

    /// Archives a directory as the account of the source and extracts it as the account of the target, so
    /// that each `tar` can access only the files of its own environment.
    async fn copy_directory(&self, copy: DirectoryCopy<'_>) -> Result<()> {
        let pack = SandboxCommand {
            environment: copy.source,
            mounts: vec![Mount::new(copy.source_path, "/data", Access::ReadOnly)],
            arguments: ["tar", "--create", "--sparse", "--file=-", "."].map(str::to_owned).into(),
            input: Input::Empty,
            ..Self::tool(copy.source, copy.limits)
        };
        let unpack = SandboxCommand {
            mounts: vec![Mount::new(copy.target_path, "/data", Access::ReadWrite)],
            arguments: ["tar", "--extract", "--file=-"].map(str::to_owned).into(),
            input: Input::Pipe,
            ..Self::tool(copy.target, copy.limits)
        };
        let output = || Output { stdout: Stdio::piped(), stderr: Stdio::piped() };
        let mut packing = self.sandbox.spawn("copy", pack, output()).await?;
        let mut unpacking = self.sandbox.spawn("copy", unpack, output()).await?;
        let mut archive = packing.child.stdout.take().context("no standard output")?;
        let mut input = unpacking.input.take().context("no standard input")?;
        let stderrs = [packing.child.stderr.take(), unpacking.child.stderr.take()];
        let [pack_stderr, unpack_stderr] = stderrs.map(|it| it.context("no error output"));
        let transfer = async {
            // Fails if either `tar` ends early; its error output contains the reason.
            let _ = tokio::io::copy(&mut archive, &mut input).await;
            drop(input);
            Ok(())
        };
        let copying = async {
            tokio::try_join!(
                transfer,
                read_bounded(pack_stderr?, ERROR_BYTES_MAX),
                read_bounded(unpack_stderr?, ERROR_BYTES_MAX),
                packing.wait(),
                unpacking.wait(),
            )
            .map_err(anyhow::Error::from)
        };
        let copied = tokio::time::timeout(COPY_TIMEOUT, copying).await;
        let ((), pack_errors, unpack_errors, packed, unpacked) =
            copied.context("copying did not end within 30 minutes")??;
        // Spawning recorded the two processes, so that the next runner could stop them after a crash.
        copy.source.clear_starting_process().await;
        copy.target.clear_starting_process().await;
        ensure!(packed.success(), "{}", pack_errors.trim());
        ensure!(unpacked.success(), "{}", unpack_errors.trim());
        Ok(())
    }

    /// Template of a command of the machine's own tools, with `/data` as working directory.
    fn tool(environment: &EnvironmentDir, limits: ResourceLimits) -> SandboxCommand<'_> {
        SandboxCommand {
            environment,
            mounts: vec![],
            working_dir: "/data",
            variables: BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]),
            arguments: vec![],
            limits,
            input: Input::Empty,
        }
    }

    async fn copy_databases(&self, lease: &Lease, target: &EnvironmentDir) -> Result<()> {
        let account = self.sandbox.accounts.get(target);
        for provision in lease.provisions.iter().filter(|it| !it.remove) {
            let source = database::database_name(&lease.source_environment_id);
            self.databases.copy(&self.sandbox.network, &source, provision, account).await?;
        }
        Ok(())
    }
}

/// Guard that keeps a process frozen until it is dropped.
struct FrozenProcess(Option<ProcessTree>);

impl FrozenProcess {
    fn new(process: Option<ProcessTree>) -> Self {
        process.iter().for_each(ProcessTree::freeze);
        Self(process)
    }
}

impl Drop for FrozenProcess {
    fn drop(&mut self) {
        self.0.iter().for_each(ProcessTree::thaw);
    }
}
