//! The data directory of a process, held by one process at a time.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use rustix::{
    fs::{FlockOperation, flock},
    process::geteuid,
};

/// A data directory, locked while it is held.
#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: Arc<File>,
}

impl DataDir {
    /// Creates the directory if it is missing, and locks it.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => default()?,
        };
        let cannot = || format!("cannot use the data directory {}", path.display());
        fs::create_dir_all(&path).with_context(cannot)?;
        let path = fs::canonicalize(&path).with_context(cannot)?;
        let lock = File::options().create(true).write(true).truncate(false).open(path.join("lock"));
        let lock = lock.with_context(cannot)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "another process uses the data directory {}; stop it, or choose another with --data-dir",
                path.display()
            );
        }
        Ok(Self { path, _lock: Arc::new(lock) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Where data lives unless told otherwise.
#[expect(clippy::disallowed_methods, reason = "the usual places are named by the environment")]
pub fn default() -> anyhow::Result<PathBuf> {
    if geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/tenantry"));
    }
    let home = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")));
    Ok(home.context("there is no home directory; name a folder with --data-dir")?.join("tenantry"))
}
