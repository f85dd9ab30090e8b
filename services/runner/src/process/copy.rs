//! Copy of an environment to another one of this machine: data, databases, and the deployed version (the
//! release). The source serves meanwhile: it is frozen only while the files are copied that changed during a
//! first pass. The target is not changed before everything is copied.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use api::project::{Lease, Provision};
use tokio::sync::OwnedMutexGuard;

use super::{
    Processes,
    bubblewrap::{Access, Mount},
    database::{self, Snapshot},
    directory::EnvironmentDir,
    limits::ResourceLimits,
    process_tree::ProcessTree,
    record::{DesiredState, EnvironmentRecord},
    sandbox::{Input, NetworkAccess, Output, PATH, SandboxCommand},
};
use crate::{
    driver::{ProgressReporter, TaskOutcome},
    text::read_bounded,
};

/// Timeout of copying files or databases.
const COPY_TIMEOUT: Duration = Duration::from_secs(1_800);

/// Maximum length of a tool's error output, in bytes.
const ERROR_BYTES_MAX: usize = 8 << 10;

/// Name of the sandboxes of `tar`.
const SANDBOX: &str = "copy";

/// Number of steps of a copy.
const STEPS: i32 = 4;

/// Files that an archive contains.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// All files, while the program changes them.
    First,
    /// The files that were changed or deleted since the first pass (`tar --listed-incremental`).
    Changes,
}

impl Pass {
    /// Returns true for an exit code with which `tar` has archived all files. In the first pass files may
    /// change while they are read (code 1).
    fn is_complete(self, exit_code: Option<i32>) -> bool {
        exit_code == Some(0) || (self == Self::First && exit_code == Some(1))
    }
}

/// Copy of a directory from one environment to another.
struct DirectoryCopy<'a> {
    source: &'a EnvironmentDir,
    source_path: PathBuf,
    target: &'a EnvironmentDir,
    target_path: PathBuf,
    /// Directory with the index of the files that `tar` has archived.
    index: PathBuf,
    limits: ResourceLimits,
}

impl Processes {
    /// Replaces data and version of the lease's environment by those of the environment
    /// `source_environment_id`. The caller must have locked both; the lock of the source is released when its
    /// files are copied.
    pub(super) async fn copy_environment(
        &self,
        lease: &Lease,
        source_lock: OwnedMutexGuard<()>,
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
        report.step("copy", 1, STEPS, "copying the files").await;
        let snapshot = self.copy_files(lease, &source, &target, &source_record).await?;
        drop(source_lock);
        report.step("database", 2, STEPS, "copying the databases").await;
        let copied = self.copy_databases(lease, snapshot.as_ref(), &target);
        let copied = tokio::time::timeout(COPY_TIMEOUT, copied).await;
        copied.context("copying the databases did not end within 30 minutes")??;
        drop(snapshot);
        let image = source.release_launch(&source_record.release).await.and_then(|it| it.image);
        if lease.neutralize
            && let Err(error) = self.neutralize_copy(lease, &target, image.as_ref(), report).await
        {
            // Data of PRODUCTION must not be left where it could be started.
            self.stop_leftovers(&target).await;
            self.abandon_copy(lease, &target).await?;
            target.remove_release(&lease.release).await?;
            return Err(error.context("the copy is not neutralized, and was discarded"));
        }
        report.mark_irreversible();
        let mut target_record = self.replace(lease, &target, source_record.commit).await?;
        self.copy_image(lease, &target, image).await?;
        if source_record.desired == DesiredState::Stopped {
            return Ok(TaskOutcome { commit: target_record.commit, ..TaskOutcome::default() });
        }
        report.step("start", 3, STEPS, "starting the copy").await;
        let url = self.start_release(lease, &target, &mut target_record, report).await?;
        report.step("done", 4, STEPS, format!("running at {url}")).await;
        Ok(TaskOutcome { commit: target_record.commit, url, ..TaskOutcome::default() })
    }

    /// Stops the target's program and replaces its data, databases and version by the copied ones.
    async fn replace(
        &self,
        lease: &Lease,
        target: &EnvironmentDir,
        commit: String,
    ) -> Result<EnvironmentRecord> {
        let mut record = target.record().await;
        let process = record.set_stopped();
        target.write_record(&record).await?;
        if let Some(process) = process {
            process.stop().await;
        }
        self.release_other_ports(target, 0).await;
        target.replace_data().await?;
        for provision in databases(lease) {
            self.databases.replace_by_copy(&self.sandbox.network, provision).await?;
        }
        record.release = lease.release.clone();
        record.commit = commit;
        record.releases.push(lease.release.clone());
        // The copy gets a port of its own when it starts.
        record.port = 0;
        target.write_record(&record).await?;
        Ok(record)
    }

    /// Removes what a cancelled copy has left in its target.
    pub(super) async fn abandon_copy(&self, lease: &Lease, target: &EnvironmentDir) -> Result<()> {
        target.remove_incoming_data().await?;
        for provision in databases(lease) {
            self.databases.discard_copy(&self.sandbox.network, &provision.name).await?;
        }
        Ok(())
    }

    /// Copies the files. Returns a snapshot of the source's database at the time of the data; `None` if it
    /// has no database.
    async fn copy_files(
        &self,
        lease: &Lease,
        source: &EnvironmentDir,
        target: &EnvironmentDir,
        source_record: &EnvironmentRecord,
    ) -> Result<Option<Snapshot>> {
        let limits = ResourceLimits::of(lease.resources);
        let copy = |name, source_path, target_path| DirectoryCopy {
            source,
            source_path,
            target,
            target_path,
            index: source.copy_index(name),
            limits,
        };
        let release = source.release_dir(&source_record.release)?;
        let code = copy("code", release, target.release_dir(&lease.release)?);
        let data = copy("data", source.data(), target.incoming_data());
        let accounts = &self.sandbox.accounts;
        for it in [&code, &data] {
            target.create_account_directory(accounts, &it.target_path).await?;
            source.create_account_directory(accounts, &it.index).await?;
            self.copy_directory(it, Pass::First).await.context("the files cannot be copied")?;
        }
        let database = match databases(lease).next() {
            Some(_) => {
                let name = database::database_name(&lease.source_environment_id);
                Some(self.databases.connect_source(&self.sandbox.network, &name).await?)
            }
            None => None,
        };
        let process = source_record.process.clone().filter(ProcessTree::is_alive);
        let frozen =
            FrozenProcess::new(process.filter(|_| source_record.desired == DesiredState::Running));
        let snapshot = match database {
            Some(database) => Some(database.snapshot().await?),
            None => None,
        };
        for it in [&code, &data] {
            self.copy_directory(it, Pass::Changes).await.context("the files cannot be copied")?;
        }
        drop(frozen);
        source.remove_copy_indices().await?;
        Ok(snapshot)
    }

    /// Archives a directory as the account of the source and extracts it as the account of the target, so
    /// that each `tar` can access only the files of its own environment.
    async fn copy_directory(&self, copy: &DirectoryCopy<'_>, pass: Pass) -> Result<()> {
        let pack = [
            "tar",
            "--create",
            "--sparse",
            "--no-check-device",
            "--listed-incremental=/index/files",
            "--file=-",
            ".",
        ];
        let pack = SandboxCommand {
            mounts: vec![
                Mount::new(&copy.source_path, "/data", Access::ReadOnly),
                Mount::new(&copy.index, "/index", Access::ReadWrite),
            ],
            arguments: pack.map(str::to_owned).into(),
            ..Self::tool(copy.source, copy.limits)
        };
        // With this option `tar` deletes files that the archived directories no longer contain.
        let unpack = ["tar", "--extract", "--listed-incremental=/dev/null", "--file=-"];
        let unpack = SandboxCommand {
            mounts: vec![Mount::new(&copy.target_path, "/data", Access::ReadWrite)],
            arguments: unpack.map(str::to_owned).into(),
            input: Input::Pipe,
            ..Self::tool(copy.target, copy.limits)
        };
        let output = || Output { stdout: Stdio::piped(), stderr: Stdio::piped() };
        let mut packing = self.sandbox.spawn(SANDBOX, pack, output()).await?;
        let mut unpacking = self.sandbox.spawn(SANDBOX, unpack, output()).await?;
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
        for environment in [copy.source, copy.target] {
            environment.clear_starting_process().await;
            environment.remove_sandbox(SANDBOX).await?;
        }
        ensure!(pass.is_complete(packed.code()), "{}", pack_errors.trim());
        ensure!(unpacked.success(), "{}", unpack_errors.trim());
        Ok(())
    }

    /// Template of a command of the machine's own tools, with `/data` as working directory.
    pub(super) fn tool(environment: &EnvironmentDir, limits: ResourceLimits) -> SandboxCommand<'_> {
        SandboxCommand {
            environment,
            mounts: vec![],
            working_dir: "/data",
            variables: BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]),
            arguments: vec![],
            limits,
            input: Input::Empty,
            network: NetworkAccess::Environment,
        }
    }

    async fn copy_databases(
        &self,
        lease: &Lease,
        snapshot: Option<&Snapshot>,
        target: &EnvironmentDir,
    ) -> Result<()> {
        let account = self.sandbox.accounts.get(target);
        for provision in databases(lease) {
            let snapshot = snapshot.context("no snapshot of the database")?;
            self.databases.copy(&self.sandbox.network, snapshot, provision, account).await?;
        }
        Ok(())
    }
}

/// Databases of a lease that exist after its task.
fn databases(lease: &Lease) -> impl Iterator<Item = &Provision> {
    lease.provisions.iter().filter(|it| !it.remove)
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
