//! Files of an environment. Files that the runner relies on are owned by root and cannot be changed by the
//! environment's account:
//!
//! ```text
//! <runner>/<environment id>/       root, 0711
//!   record.json  launch.json  starting  layers  context-excludes  passwd  group  root
//!   logs/                           root, 0700
//!     <number>.<deployment id>/     the account of the logs, 0700
//!     <number>.<deployment id>.json root; the secrets that this start could print
//!   data/                           the environment's account, 0700; /data inside
//!   releases/                       root, 0711
//!     <deployment id>/              the environment's account, 0700; /app inside
//!     <deployment id>.json          root; the launch of that deployment
//!   git/                            root, 0711
//!     <deployment id>/              the environment's account, 0700; /app/.git for git and builds only
//!   sandboxes/                      root, 0711
//!     <name>/status                 root
//!     <name>/tmp/                   the environment's account, 0700; /tmp inside
//! ```

use std::{
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{fs, process::Command};
use uuid::Uuid;

use super::{
    account::Accounts,
    launch::Launch,
    process_tree::ProcessTree,
    record::EnvironmentRecord,
    sandbox::{PATH, program_path},
    text_file::TextFile,
};

/// Directory of an environment.
#[derive(Clone, Debug)]
pub(super) struct EnvironmentDir {
    path: PathBuf,
    id: Uuid,
}

impl EnvironmentDir {
    /// Returns the directory of the environment `id` below `root`; it need not exist. Fails if `id` is not a
    /// UUID, which excludes path traversal.
    pub(super) fn new(root: &Path, id: &str) -> Result<Self> {
        let id = Uuid::try_parse(id).with_context(|| format!("{id:?} is not an environment id"))?;
        Ok(Self { path: root.join(id.to_string()), id })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// Persistent files of the program, kept across versions.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Destination of a copy in progress, which replaces [`Self::data`] when it is complete.
    pub(super) fn incoming_data(&self) -> PathBuf {
        self.path.join("data.incoming")
    }

    /// Standard output and error of the programs that were started.
    pub(super) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// `/etc/passwd` of the environment's sandbox.
    pub(super) fn passwd(&self) -> PathBuf {
        self.path.join("passwd")
    }

    /// `/etc/group` of the environment's sandbox.
    pub(super) fn group(&self) -> PathBuf {
        self.path.join("group")
    }

    /// Ids of the layers of a build of a Dockerfile that has not ended.
    pub(super) fn layers(&self) -> PathBuf {
        self.path.join("layers")
    }

    /// Paths that are no part of a build context, which the account of the environment can read.
    pub(super) fn context_excludes(&self) -> PathBuf {
        self.path.join("context-excludes")
    }

    fn releases(&self) -> PathBuf {
        self.path.join("releases")
    }

    /// Code of a deployment. Fails if `id` is not a UUID, which excludes path traversal.
    pub(super) fn release_dir(&self, id: &str) -> Result<PathBuf> {
        let id = Uuid::try_parse(id).with_context(|| format!("{id:?} is not a deployment id"))?;
        Ok(self.releases().join(id.to_string()))
    }

    /// Repository of a deployment's code, which is no part of the code: a program could serve it.
    pub(super) fn git_dir(&self, id: &str) -> Result<PathBuf> {
        let id = Uuid::try_parse(id).with_context(|| format!("{id:?} is not a deployment id"))?;
        Ok(self.git_dirs().join(id.to_string()))
    }

    fn git_dirs(&self) -> PathBuf {
        self.path.join("git")
    }

    /// Returns the record; the default if none has been written.
    pub(super) async fn record(&self) -> EnvironmentRecord {
        self.read_json("record.json").await.unwrap_or_default()
    }

    pub(super) async fn write_record(&self, record: &EnvironmentRecord) -> Result<()> {
        self.write_json("record.json", record).await
    }

    /// Returns the last launch, for restarts. The file contains secrets.
    pub(super) async fn launch(&self) -> Option<Launch> {
        self.read_json("launch.json").await
    }

    pub(super) async fn write_launch(&self, launch: &Launch) -> Result<()> {
        self.write_json("launch.json", launch).await
    }

    /// Returns the launch of a deployment, for rollbacks; `None` if it is not stored. Contains secrets.
    pub(super) async fn release_launch(&self, release: &str) -> Option<Launch> {
        self.read_json(&format!("releases/{release}.json")).await
    }

    /// Writes the last launch, which is also the launch of its deployment.
    pub(super) async fn write_release_launch(&self, launch: &Launch) -> Result<()> {
        let id = Uuid::try_parse(&launch.release)?;
        self.write_json(&format!("releases/{id}.json"), launch).await?;
        self.write_launch(launch).await
    }

    pub(super) async fn read_json<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.path.join(name)).await.ok()?).ok()
    }

    /// Replaces a file atomically: a crash leaves either the old or the new content.
    pub(super) async fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let new = self.path.join(format!("{name}.new"));
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file =
            options.open(&new).await.with_context(|| format!("cannot write {}", new.display()))?;
        tokio::io::AsyncWriteExt::write_all(&mut file, &serde_json::to_vec(value)?).await?;
        file.sync_all().await?;
        Ok(fs::rename(&new, self.path.join(name)).await?)
    }

    /// Creates missing directories, and stops processes that a previous runner left behind.
    pub(super) async fn prepare(&self, accounts: &Accounts) -> Result<()> {
        self.stop_leftovers().await;
        create_directory(&self.path, 0o711).await?;
        create_directory(&self.releases(), 0o711).await?;
        create_directory(&self.git_dirs(), 0o711).await?;
        if !fs::try_exists(self.data()).await? {
            self.create_account_directory(accounts, &self.data()).await?;
        }
        Ok(())
    }

    /// Creates an empty directory owned by the environment's account, replacing an existing one.
    pub(super) async fn create_account_directory(
        &self,
        accounts: &Accounts,
        directory: &Path,
    ) -> Result<()> {
        remove_tree(directory).await?;
        create_directory(directory, 0o700).await?;
        accounts.set_owner(self, directory)
    }

    /// Replaces the data by that of a completed copy.
    pub(super) async fn replace_data(&self) -> Result<()> {
        remove_tree(&self.data()).await?;
        Ok(fs::rename(self.incoming_data(), self.data()).await?)
    }

    /// Records a process that is being started, so that the next runner can stop it if this one crashes.
    pub(super) fn write_starting_process(&self, process: &ProcessTree) -> Result<()> {
        Ok(std::fs::write(self.path.join("starting"), serde_json::to_vec(process)?)?)
    }

    /// Removes the record of [`Self::write_starting_process`].
    pub(super) async fn clear_starting_process(&self) {
        let _ = fs::remove_file(self.path.join("starting")).await;
    }

    /// Stops processes that a crashed runner left behind: builds, programs that were being started, and
    /// replaced versions.
    pub(super) async fn stop_leftovers(&self) {
        let starting: Option<ProcessTree> = self.read_json("starting").await;
        let mut record = self.record().await;
        if let Some(process) = record.previous.take() {
            process.stop().await;
            let _ = self.write_record(&record).await;
        }
        // `starting` is also left behind by a crash after the record was written. Then it names the recorded
        // process, which is the running version and continues.
        if let Some(process) = starting.filter(|it| record.process.as_ref() != Some(it)) {
            process.stop().await;
        }
        self.clear_starting_process().await;
        if let Err(error) = self.remove_other_sandboxes(&record).await {
            let error = format!("{error:#}");
            tracing::warn!(environment = %self.id, error, "files of ended sandboxes not removed");
        }
    }

    pub(super) async fn remove_release(&self, id: &str) -> Result<()> {
        remove_tree(&self.git_dir(id)?).await?;
        let directory = self.release_dir(id)?;
        remove_tree(&directory).await?;
        remove_tree(&directory.with_extension("json")).await
    }

    /// Removes the empty directory `.git` of a deployment's code, at which the repository was mounted for git
    /// and the build.
    pub(super) async fn remove_git_mount_point(&self, id: &str) -> Result<()> {
        let path = self.release_dir(id)?.join(".git");
        // Fails if the build has replaced the directory, which then belongs to the code.
        let _ = fs::remove_dir(path).await;
        Ok(())
    }

    /// Removes versions that are too old for a rollback.
    pub(super) async fn remove_old_releases(&self, record: &EnvironmentRecord) -> Result<()> {
        let kept = record.kept_releases();
        for directory in [self.releases(), self.git_dirs()] {
            // Environments of earlier runners have no directory `git` before their next deployment.
            let Ok(mut entries) = fs::read_dir(directory).await else { continue };
            while let Some(entry) = entries.next_entry().await? {
                let path = entry.path();
                let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                if !kept.contains(&id) {
                    remove_tree(&path).await?;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn remove(&self) -> Result<()> {
        remove_tree(&self.path).await
    }

    /// Reads a text file from a deployment's code; `None` if it does not exist. Fails if it is longer than
    /// `max` bytes or is no regular file. Symbolic links are followed within the code only (openat2(2)):
    /// others could point to files that only root can read.
    pub(super) fn read_release_file(
        &self,
        release: &str,
        name: &str,
        max: u64,
    ) -> Result<Option<TextFile>> {
        let directory = std::fs::File::open(self.release_dir(release)?);
        let directory = directory.context("the code of the deployment is missing")?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let open = |flags| openat2(&directory, name, flags, Mode::empty(), resolve);
        let file = match open(flags) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::NOENT) => {
                let link = open(OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC);
                ensure!(link.is_err(), "{name} is a symbolic link to a file that does not exist");
                return Ok(None);
            }
            Err(Errno::LOOP) => bail!("{name} is a symbolic link that leads to itself"),
            Err(Errno::XDEV) => bail!(
                "{name} is a symbolic link that leaves the repository; it must be a file, or a link with a \
                 relative path to a file of the repository"
            ),
            Err(error) => return Err(error).with_context(|| format!("cannot read {name}")),
        };
        ensure!(file.metadata()?.is_file(), "{name} must be a regular file");
        let mut bytes = vec![];
        let length = file.take(max + 1).read_to_end(&mut bytes)?;
        ensure!(u64::try_from(length)? <= max, "{name} is longer than {max} bytes");
        let text = TextFile::decode(&bytes).with_context(|| format!("{name} must be text"))?;
        Ok(Some(text))
    }
}

pub(super) async fn create_directory(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path).await.with_context(|| format!("cannot create {}", path.display()))?;
    Ok(fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).await?)
}

/// Removes a file or directory whose parent only the runner can change. Uses `rm`, which does not follow
/// symbolic links and handles any depth.
pub(super) async fn remove_tree(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).await.is_err() {
        return Ok(());
    }
    let mut remove = Command::new(program_path("rm"));
    remove.args(["-rf", "--one-file-system", "--"]).arg(path).env_clear().env("PATH", PATH);
    let output = remove.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot remove {}: {errors}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const ID: &str = "01920000-0000-7000-8000-000000000001";

    #[test]
    fn only_files_of_the_code_are_read_from_a_deployment() {
        let folder = tempfile::tempdir().unwrap();
        let environment = EnvironmentDir::new(folder.path(), ID).unwrap();
        let release = environment.release_dir(ID).unwrap();
        std::fs::create_dir_all(release.join("folder")).unwrap();
        std::fs::write(release.join("file"), "text").unwrap();
        std::fs::write(release.join("binary"), [0xc3, 0x28]).unwrap();
        symlink("/etc/passwd", release.join("absolute")).unwrap();
        symlink("file", release.join("relative")).unwrap();
        symlink("../relative", release.join("folder/second")).unwrap();
        symlink("/etc", release.join("etc")).unwrap();
        symlink("../../record.json", release.join("outside")).unwrap();
        symlink("/proc/self/environ", release.join("magic")).unwrap();
        symlink("loop", release.join("loop")).unwrap();
        symlink("none", release.join("dangling")).unwrap();
        symlink("fifo", release.join("to-fifo")).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(release.join("fifo")).status();
        assert!(fifo.unwrap().success());
        let read = |name: &str| {
            let file = environment.read_release_file(ID, name, 4)?;
            anyhow::Ok(file.map(|it| it.text))
        };
        for name in ["file", "relative", "folder/second"] {
            assert_eq!(read(name).unwrap().as_deref(), Some("text"));
        }
        assert_eq!(read("none").unwrap(), None);
        for (name, reason) in [
            ("absolute", "leaves the repository"),
            ("etc/passwd", "leaves the repository"),
            ("outside", "leaves the repository"),
            ("magic", "leaves the repository"),
            ("../../record.json", "leaves the repository"),
            ("/etc/passwd", "leaves the repository"),
            ("loop", "leads to itself"),
            ("dangling", "does not exist"),
            ("fifo", "regular file"),
            ("to-fifo", "regular file"),
            ("folder", "regular file"),
            ("binary", "must be text"),
        ] {
            let error = format!("{:#}", read(name).unwrap_err());
            assert!(error.contains(reason), "{name}: {error}");
        }
        std::fs::write(release.join("file"), "longer").unwrap();
        assert!(read("file").unwrap_err().to_string().contains("longer than 4 bytes"));
    }

    #[test]
    fn ids_cannot_be_paths() {
        for id in ["", "..", "../x", "a/b", "01920000-0000-7000-8000-00000000000/"] {
            assert!(EnvironmentDir::new(Path::new("/x"), id).is_err(), "{id}");
        }
    }
}
