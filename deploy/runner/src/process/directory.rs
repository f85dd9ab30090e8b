//! Files of an environment. Everything that the runner believes lies outside of what the environment's
//! account can change:
//!
//! ```text
//! <runner>/<environment id>/       root, 0711
//!   record.json  launch.json  starting  log  log.1  passwd     root
//!   data/                           the environment's account, 0700; /data inside
//!   releases/                       root, 0711
//!     <deployment id>/              the environment's account, 0700; /app inside
//! ```

use std::{
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{fs, process::Command};
use uuid::Uuid;

use super::{
    account::Accounts, launch::Launch, process_tree::ProcessTree, record::EnvironmentRecord,
    sandbox::PATH,
};

/// Versions that are kept for a rollback, the serving one among them.
const RELEASES_MAX: usize = 4;

/// Bytes of a log; a longer one is moved aside.
const LOG_BYTES_MAX: u64 = 10 << 20;

/// Bytes of a log's end that an error message is made from.
const LOG_TAIL_BYTES: u64 = 8 << 10;

/// The folder of an environment.
#[derive(Clone, Debug)]
pub(super) struct EnvironmentDir {
    path: PathBuf,
    id: Uuid,
}

impl EnvironmentDir {
    /// The folder of the environment with this id below `root`.
    pub(super) fn new(root: &Path, id: &str) -> Result<Self> {
        let id = Uuid::try_parse(id)
            .with_context(|| format!("{id:?} is not the id of an environment"))?;
        Ok(Self { path: root.join(id.to_string()), id })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// Files that programs keep; they outlive versions.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Data that a copy brings, until it is complete.
    pub(super) fn incoming_data(&self) -> PathBuf {
        self.path.join("data.incoming")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The account database that the environment's programs see.
    pub(super) fn passwd(&self) -> PathBuf {
        self.path.join("passwd")
    }

    fn releases(&self) -> PathBuf {
        self.path.join("releases")
    }

    /// The code of a deployment.
    pub(super) fn release(&self, id: &str) -> Result<PathBuf> {
        let id =
            Uuid::try_parse(id).with_context(|| format!("{id:?} is not the id of a deployment"))?;
        Ok(self.releases().join(id.to_string()))
    }

    /// The record; an empty one if there is none yet.
    pub(super) async fn record(&self) -> EnvironmentRecord {
        self.read_json("record.json").await.unwrap_or_default()
    }

    pub(super) async fn write_record(&self, record: &EnvironmentRecord) -> Result<()> {
        self.write_json("record.json", record).await
    }

    /// The last launch, for restarts. It holds secrets.
    pub(super) async fn launch(&self) -> Option<Launch> {
        self.read_json("launch.json").await
    }

    pub(super) async fn write_launch(&self, launch: &Launch) -> Result<()> {
        self.write_json("launch.json", launch).await
    }

    pub(super) async fn read_json<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.path.join(name)).await.ok()?).ok()
    }

    /// Replaces a file as a whole, so that a reader finds the old or the new one.
    pub(super) async fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let new = self.path.join(format!("{name}.new"));
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new).await.context("a record cannot be written")?;
        tokio::io::AsyncWriteExt::write_all(&mut file, &serde_json::to_vec(value)?).await?;
        file.sync_all().await?;
        Ok(fs::rename(&new, self.path.join(name)).await?)
    }

    /// Makes the folders that are missing, and ends what an earlier runner left unfinished.
    pub(super) async fn prepare(&self, accounts: &Accounts) -> Result<()> {
        self.end_unfinished().await;
        make_folder(&self.path, 0o711).await?;
        make_folder(&self.releases(), 0o711).await?;
        if !fs::try_exists(self.data()).await? {
            self.make_account_folder(accounts, &self.data()).await?;
        }
        let account = accounts.get(self).unwrap_or_else(|| rustix::process::getuid().as_raw());
        let passwd = format!("environment:x:{account}:{account}:environment:/data:/bin/sh\n");
        fs::write(self.passwd(), passwd).await?;
        Ok(())
    }

    /// Makes an empty folder that belongs to the environment's account, in place of what is there.
    pub(super) async fn make_account_folder(
        &self,
        accounts: &Accounts,
        folder: &Path,
    ) -> Result<()> {
        remove_tree(folder).await?;
        make_folder(folder, 0o700).await?;
        accounts.give(self, folder)
    }

    /// Puts data that has come completely in place of the old.
    pub(super) async fn replace_data(&self) -> Result<()> {
        remove_tree(&self.data()).await?;
        Ok(fs::rename(self.incoming_data(), self.data()).await?)
    }

    /// Notes a process that is being started, so that the next runner can end it.
    pub(super) fn note_starting(&self, process: &ProcessTree) -> Result<()> {
        Ok(std::fs::write(self.path.join("starting"), serde_json::to_vec(process)?)?)
    }

    pub(super) async fn clear_starting(&self) {
        let _ = fs::remove_file(self.path.join("starting")).await;
    }

    /// Ends what was being built or started, and what should have ended.
    pub(super) async fn end_unfinished(&self) {
        let starting: Option<ProcessTree> = self.read_json("starting").await;
        let mut record = self.record().await;
        if let Some(process) = record.previous.take() {
            process.stop().await;
            let _ = self.write_record(&record).await;
        }
        // Between the switch to a new version and the removal of the note, the noted process serves.
        if let Some(process) = starting.filter(|it| record.process.as_ref() != Some(it)) {
            process.stop().await;
        }
        self.clear_starting().await;
    }

    pub(super) async fn remove_release(&self, id: &str) -> Result<()> {
        remove_tree(&self.release(id)?).await
    }

    /// Removes versions that no rollback reaches.
    pub(super) async fn remove_old_releases(&self, record: &EnvironmentRecord) -> Result<()> {
        let first = record.releases.len().saturating_sub(RELEASES_MAX);
        let kept = &record.releases[first..];
        let mut entries = fs::read_dir(self.releases()).await?;
        while let Some(entry) = entries.next_entry().await? {
            if !kept.contains(&entry.file_name().to_string_lossy().into_owned()) {
                remove_tree(&entry.path()).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn remove(&self) -> Result<()> {
        remove_tree(&self.path).await
    }

    /// A regular file of a deployment's code, at most `max` bytes; `None` if there is none. No symbolic
    /// link is followed on the way, and nothing but a regular file is opened.
    pub(super) fn read_release_file(
        &self,
        release: &str,
        name: &str,
        max: u64,
    ) -> Result<Option<String>> {
        let folder =
            std::fs::File::open(self.release(release)?).context("the deployment has no code")?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = match openat2(&folder, name, flags, Mode::empty(), resolve) {
            Ok(file) => std::fs::File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => {
                bail!("{name} is a symbolic link; commit a regular file instead")
            }
            Err(error) => return Err(error).with_context(|| format!("{name} cannot be read")),
        };
        ensure!(file.metadata()?.is_file(), "{name} is not a regular file");
        let mut text = String::new();
        let read = file.take(max + 1).read_to_string(&mut text);
        let length = read.with_context(|| format!("{name} is not UTF-8 text"))?;
        ensure!(u64::try_from(length)? <= max, "{name} is longer than {max} bytes");
        Ok(Some(text))
    }

    /// The last lines of the program's output.
    pub(super) async fn last_lines(&self) -> String {
        let log = self.log();
        let tail = tokio::task::spawn_blocking(move || tail(&log, LOG_TAIL_BYTES)).await;
        let text = tail.ok().and_then(Result::ok).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(20).collect();
        if lines.is_empty() {
            return "it wrote no output".to_owned();
        }
        let lines: Vec<_> = lines.into_iter().rev().collect();
        format!("its last output:\n{}", lines.join("\n"))
    }

    /// Moves the end of a long log aside. The program appends, so it goes on at the new end.
    pub(super) async fn rotate_log(&self) -> Result<()> {
        let log = self.log();
        if !fs::metadata(&log).await.is_ok_and(|it| it.len() > LOG_BYTES_MAX) {
            return Ok(());
        }
        let old = self.path.join("log.1");
        let rotate = move || {
            std::fs::write(old, tail(&log, LOG_BYTES_MAX)?)?;
            Ok(std::fs::OpenOptions::new().write(true).open(&log)?.set_len(0)?)
        };
        tokio::task::spawn_blocking(rotate).await?
    }
}

/// The last `max` bytes of a file, as text.
fn tail(path: &Path, max: u64) -> Result<String> {
    use std::io::{Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(max)))?;
    let mut bytes = vec![];
    file.take(max).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn make_folder(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path).await.with_context(|| format!("cannot create {}", path.display()))?;
    Ok(fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).await?)
}

/// Removes a folder whose parent only the runner changes. `rm` follows no link, and takes folders of any
/// depth.
async fn remove_tree(path: &Path) -> Result<()> {
    let mut remove = Command::new("rm");
    remove.args(["-rf", "--one-file-system", "--"]).arg(path).env_clear().env("PATH", PATH);
    let output = remove.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} cannot be removed: {errors}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const ID: &str = "01920000-0000-7000-8000-000000000001";

    #[test]
    fn only_regular_files_of_the_code_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let environment = EnvironmentDir::new(folder.path(), ID).unwrap();
        let release = environment.release(ID).unwrap();
        std::fs::create_dir_all(release.join("folder")).unwrap();
        std::fs::write(release.join("file"), "text").unwrap();
        std::fs::write(release.join("binary"), [0xff, 0xfe]).unwrap();
        symlink("/etc/passwd", release.join("absolute")).unwrap();
        symlink("file", release.join("relative")).unwrap();
        symlink("/etc", release.join("etc")).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(release.join("fifo")).status();
        assert!(fifo.unwrap().success());
        let read = |name: &str| environment.read_release_file(ID, name, 4);
        assert_eq!(read("file").unwrap().as_deref(), Some("text"));
        assert_eq!(read("none").unwrap(), None);
        let refused = [
            "absolute",
            "relative",
            "etc/passwd",
            "../../record.json",
            "/etc/passwd",
            "fifo",
            "folder",
            "binary",
        ];
        for name in refused {
            assert!(read(name).is_err(), "{name}");
        }
        std::fs::write(release.join("file"), "longer").unwrap();
        assert!(read("file").unwrap_err().to_string().contains("longer than 4 bytes"));
    }

    #[test]
    fn ids_are_never_paths() {
        for id in ["", "..", "../x", "a/b", "01920000-0000-7000-8000-00000000000/"] {
            assert!(EnvironmentDir::new(Path::new("/x"), id).is_err(), "{id}");
        }
    }
}
