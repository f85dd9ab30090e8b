//! The data directory of a process, with a lock: one process at a time uses it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::{
    fs::{FlockOperation, flock},
    process::geteuid,
};

/// Time to wait for the lock. A process that has just ended can leave a forked child, which keeps the lock
/// until it executes its program.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval of the attempts to lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// A data directory, locked until this value and its clones are dropped.
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
        let cannot = || {
            let path = path.display();
            format!(
                "cannot use the data directory {path}; set --data-dir to a directory that can be written"
            )
        };
        fs::create_dir_all(&path).with_context(cannot)?;
        let path = fs::canonicalize(&path).with_context(cannot)?;
        let lock = File::options().create(true).write(true).truncate(false).open(path.join("lock"));
        let lock = lock.with_context(cannot)?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() > deadline {
                bail!(
                    "another process uses the data directory {}; stop it, or set --data-dir to another one",
                    path.display()
                );
            }
            std::thread::sleep(LOCK_INTERVAL);
        }
        Ok(Self { path, _lock: Arc::new(lock) })
    }

    /// Opens the directory beside the process that has its lock.
    pub(crate) fn open_unlocked(path: &Path) -> anyhow::Result<Self> {
        let lock = File::open(path.join("lock"))?;
        Ok(Self { path: fs::canonicalize(path)?, _lock: Arc::new(lock) })
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns the default data directory: /var/lib/tenantry for root, else the user's (XDG Base Directory).
#[expect(clippy::disallowed_methods, reason = "XDG_DATA_HOME and HOME are environment variables")]
pub fn default() -> anyhow::Result<PathBuf> {
    if geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/tenantry"));
    }
    let home = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")));
    Ok(home.context("there is no home directory; set --data-dir")?.join("tenantry"))
}
