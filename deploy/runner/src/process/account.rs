//! The accounts that deployed code runs as: never root, and each environment another, so that none reads the
//! files of another or signals its processes.

use std::{
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::{figures, home::Home};

/// The first account of an environment; such numbers belong to nobody.
const FIRST: u32 = 600_000;

/// Gives each environment an account, if this process is root. Otherwise deployed code runs as it does.
pub(super) struct Accounts {
    folder: PathBuf,
    root: bool,
    /// One at a time takes a number.
    taking: Mutex<()>,
}

impl Accounts {
    pub(super) fn of(folder: PathBuf) -> Self {
        Self { folder, root: geteuid().is_root(), taking: Mutex::default() }
    }

    pub(super) fn are_own(&self) -> bool {
        self.root
    }

    /// The account of an environment: the owner of its folder.
    pub(super) fn get(&self, home: &Home) -> Option<u32> {
        let owner = std::fs::metadata(home.path()).ok()?.uid();
        (self.root && owner >= FIRST).then_some(owner)
    }

    /// Gives a folder of an environment to its account.
    pub(super) fn own(&self, home: &Home, folder: &Path) -> Result<()> {
        if !self.root {
            return Ok(());
        }
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let account = match self.get(home) {
            Some(account) => account,
            None => self.free()?,
        };
        chown(folder, Some(account), Some(account)).context("a folder cannot be given away")
    }

    /// A number that no environment has.
    fn free(&self) -> Result<u32> {
        let mut highest = FIRST - 1;
        for entry in std::fs::read_dir(&self.folder)? {
            let owner = entry?.metadata()?.uid();
            if owner < 1_000_000_000 {
                highest = highest.max(owner);
            }
        }
        Ok(highest + 1)
    }

    /// Ends whatever still runs as the environment's account, wherever it has hidden.
    pub(super) fn end_all(&self, home: &Home) {
        let Some(account) = self.get(home) else { return };
        for pid in figures::of_account(account) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}
