//! The accounts that deployed code runs as: never root, and each environment another, so that none reads the
//! files of another or signals its processes.

use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::{figures, home::Home};

/// The first account of an environment, and how many there are: such numbers belong to nobody. The second
/// row is for containers, in which only small ones exist.
const RANGES: [(u32, u32); 2] = [(600_000, 1_000_000_000), (20_000, 40_000)];

/// Gives each environment an account, if this process is root. Otherwise deployed code runs as it does.
pub(super) struct Accounts {
    folder: PathBuf,
    root: bool,
    range: (u32, u32),
    /// One at a time takes a number.
    taking: Mutex<()>,
}

impl Accounts {
    pub(super) fn of(folder: PathBuf) -> Self {
        let root = geteuid().is_root();
        let range = RANGES.into_iter().find(|it| root && exists(&folder, it.0 + it.1 - 1));
        let range = range.unwrap_or(RANGES[1]);
        Self { folder, root, range, taking: Mutex::default() }
    }

    pub(super) fn are_own(&self) -> bool {
        self.root
    }

    /// The account of an environment: the owner of its folder.
    pub(super) fn get(&self, home: &Home) -> Option<u32> {
        let owner = std::fs::metadata(home.path()).ok()?.uid();
        (self.root && owner >= self.range.0).then_some(owner)
    }

    /// Gives a folder of an environment to its account.
    pub(super) fn own(&self, home: &Home, folder: &Path) -> Result<()> {
        if !self.root {
            return Ok(());
        }
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let account = match self.get(home) {
            Some(account) => account,
            None => self.free(home)?,
        };
        chown(folder, Some(account), Some(account)).context("a folder cannot be given away")
    }

    /// A number that no environment has. It follows from the environment's id, so that another runner on this
    /// machine takes others.
    fn free(&self, home: &Home) -> Result<u32> {
        let mut taken = BTreeSet::new();
        for entry in std::fs::read_dir(&self.folder)? {
            taken.insert(entry?.metadata()?.uid());
        }
        let (first, count) = self.range;
        let digits: String = home.id().chars().filter(char::is_ascii_hexdigit).collect();
        let wanted = u32::from_str_radix(digits.get(24..).unwrap_or_default(), 16).unwrap_or(0);
        let numbers = (0..count).map(|it| first + (wanted % count + it) % count);
        numbers.into_iter().find(|it| !taken.contains(it)).context("no account is free")
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

/// Whether this machine knows an account: in a container it may not.
fn exists(folder: &Path, account: u32) -> bool {
    let probe = folder.join(".account");
    let owned = std::fs::write(&probe, "").is_ok() && chown(&probe, Some(account), None).is_ok();
    let _ = std::fs::remove_file(&probe);
    owned
}
