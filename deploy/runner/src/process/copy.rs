//! A copy of another environment of this machine: its data, its databases, and the version that it serves.

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

/// Time for copying files.
const COPY_TIMEOUT: Duration = Duration::from_secs(1_800);

/// Bytes of an error that are kept.
const ERROR_BYTES_MAX: usize = 8 << 10;

/// A folder of one environment and its place in another.
struct FolderCopy<'a> {
    source: &'a EnvironmentDir,
    source_folder: PathBuf,
    target: &'a EnvironmentDir,
    target_folder: PathBuf,
    limits: ResourceLimits,
}

impl Processes {
    pub(super) async fn copy_environment(
        &self,
        lease: &Lease,
        report: &ProgressReporter,
    ) -> Result<TaskOutcome> {
        let source = self.environment(&lease.source_environment_id)?;
        let target = self.environment(&lease.environment_id)?;
        let original = source.record().await;
        let is_unchanged = original.release == lease.source_release;
        ensure!(is_unchanged, "the source has changed its version meanwhile; copy it again");
        target.prepare(&self.sandbox.accounts).await?;
        let lease = &self.with_extra_services(lease, report).await?;
        let mut record = target.record().await;
        report.step("copy", 1, 3, "copying the data").await;
        let before = record.set_stopped();
        target.write_record(&record).await?;
        if let Some(process) = before {
            process.stop().await;
        }
        // Files that change while they are copied would be torn.
        let running = original.process.clone().filter(ProcessTree::is_alive);
        let running = running.filter(|_| original.desired == DesiredState::Running);
        let frozen = FrozenProcess::new(running);
        self.copy_files(lease, &source, &target, &original.release).await?;
        let copied = tokio::time::timeout(COPY_TIMEOUT, self.copy_databases(lease, &target)).await;
        copied.context("copying the databases did not end within 30 minutes")??;
        drop(frozen);
        (record.release, record.commit) = (lease.release.clone(), original.commit.clone());
        record.releases.push(lease.release.clone());
        record.port = 0;
        target.write_record(&record).await?;
        if original.desired == DesiredState::Stopped {
            return Ok(TaskOutcome { commit: record.commit, ..TaskOutcome::default() });
        }
        report.step("start", 2, 3, "starting the copy").await;
        let url = self.start_release(lease, &target, &mut record).await?;
        report.step("done", 3, 3, format!("serving on {url}")).await;
        Ok(TaskOutcome { commit: record.commit, url, ..TaskOutcome::default() })
    }

    async fn copy_files(
        &self,
        lease: &Lease,
        source: &EnvironmentDir,
        target: &EnvironmentDir,
        release: &str,
    ) -> Result<()> {
        let limits = ResourceLimits::of(lease.resources);
        let folders = [
            (source.data(), target.incoming_data()),
            (source.release(release)?, target.release(&lease.release)?),
        ];
        for (source_folder, target_folder) in folders {
            target.make_account_folder(&self.sandbox.accounts, &target_folder).await?;
            let copy = FolderCopy { source, source_folder, target, target_folder, limits };
            self.copy_folder(copy).await.context("the files cannot be copied")?;
        }
        target.replace_data().await
    }

    /// Packs a folder as the account of the source and unpacks it as that of the target, so neither reads nor
    /// writes anything but its own.
    async fn copy_folder(&self, copy: FolderCopy<'_>) -> Result<()> {
        let pack = SandboxCommand {
            environment: copy.source,
            mounts: vec![Mount::new(copy.source_folder, "/data", Access::ReadOnly)],
            arguments: ["tar", "--create", "--sparse", "--file=-", "."].map(str::to_owned).into(),
            input: Input::Empty,
            ..Self::tool(copy.source, copy.limits)
        };
        let unpack = SandboxCommand {
            mounts: vec![Mount::new(copy.target_folder, "/data", Access::ReadWrite)],
            arguments: ["tar", "--extract", "--file=-"].map(str::to_owned).into(),
            input: Input::Pipe,
            ..Self::tool(copy.target, copy.limits)
        };
        let output = || Output { stdout: Stdio::piped(), stderr: Stdio::piped() };
        let mut packing = self.sandbox.spawn("copy", pack, output()).await?;
        let mut unpacking = self.sandbox.spawn("copy", unpack, output()).await?;
        let mut archive = packing.child.stdout.take().context("no standard output")?;
        let mut input = unpacking.input.take().context("no standard input")?;
        let errors = [packing.child.stderr.take(), unpacking.child.stderr.take()];
        let [pack_errors, unpack_errors] = errors.map(|it| it.context("no error output"));
        let transfer = async {
            // Ends early if the other side does; its error output says why.
            let _ = tokio::io::copy(&mut archive, &mut input).await;
            drop(input);
            Ok(())
        };
        let copied = async {
            tokio::try_join!(
                transfer,
                read_bounded(pack_errors?, ERROR_BYTES_MAX),
                read_bounded(unpack_errors?, ERROR_BYTES_MAX),
                packing.wait(),
                unpacking.wait(),
            )
            .map_err(anyhow::Error::from)
        };
        let copied = tokio::time::timeout(COPY_TIMEOUT, copied).await;
        let ((), pack_errors, unpack_errors, packed, unpacked) =
            copied.context("copying did not end within 30 minutes")??;
        copy.source.clear_starting().await;
        copy.target.clear_starting().await;
        ensure!(packed.success(), "{}", pack_errors.trim());
        ensure!(unpacked.success(), "{}", unpack_errors.trim());
        Ok(())
    }

    /// A tool of the machine in `/data`.
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
            let source = database::name(&lease.source_environment_id);
            self.databases.copy(&self.sandbox.network, &source, provision, account).await?;
        }
        Ok(())
    }
}

/// A process that is frozen until this is dropped.
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
