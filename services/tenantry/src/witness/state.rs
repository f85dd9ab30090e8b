//! The newest cosigned checkpoint of each log, in a file each. A checkpoint is on disk before its cosignature
//! leaves the process.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use chassis::key::write_private;
use data_encoding::HEXLOWER;

/// Directory of the files, in the data directory.
const FOLDER: &str = "checkpoints";

/// Directory of the files.
#[derive(Debug)]
pub(super) struct StateDir(PathBuf);

impl StateDir {
    /// Opens the directory, and creates it if it is missing.
    pub(super) fn open(data_dir: &Path) -> Result<Self> {
        let path = data_dir.join(FOLDER);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        File::open(data_dir)?.sync_all()?;
        Ok(Self(path))
    }

    /// Reads the newest cosigned checkpoint of a log, a signed note; `None` if there is none.
    pub(super) fn read(&self, origin: &str) -> Result<Option<String>> {
        let path = self.path(origin);
        match fs::read_to_string(&path) {
            Ok(note) => Ok(Some(note)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Replaces the checkpoint of a log. It is durable when this returns.
    pub(super) fn write(&self, origin: &str, note: &str) -> Result<()> {
        let path = self.path(origin);
        write_private(&path, note.as_bytes())
            .and_then(|()| File::open(&self.0)?.sync_all())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Path of the file of a log.
    pub(super) fn path(&self, origin: &str) -> PathBuf {
        self.0.join(format!("{}.checkpoint", origin_hash(origin)))
    }
}

/// Name of a log in paths: the SHA-256 hash of its origin in hexadecimal.
pub(super) fn origin_hash(origin: &str) -> String {
    HEXLOWER.encode(digest(&SHA256, origin.as_bytes()).as_ref())
}
