//! Accounts (numeric user ids) of environments: never root, one for each, so that none reads the files of
//! another or signals its processes.

use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::{directory::EnvironmentDir, process_table::ProcessTable};

/// A contiguous range of user ids that belong to nobody on this machine.
#[derive(Clone, Copy)]
struct AccountRange {
    first: u32,
    count: u32,
}

/// Ranges by preference; in a container only the small numbers of the second may be mapped.
const RANGES: [AccountRange; 2] = [
    AccountRange { first: 600_000, count: 1_000_000_000 },
    AccountRange { first: 20_000, count: 40_000 },
];

/// Assigns accounts, if this process is root. Otherwise all deployed code has the account of this process.
pub(super) struct Accounts {
    root: PathBuf,
    is_root: bool,
    range: AccountRange,
    /// One environment at a time is assigned an account.
    assigning: Mutex<()>,
}

impl Accounts {
    /// Accounts of the environments below `root`.
    pub(super) fn new(root: PathBuf) -> Self {
        let is_root = geteuid().is_root();
        let is_mapped = |it: &AccountRange| is_root && can_own(&root, it.first + it.count - 1);
        let range = RANGES.into_iter().find(is_mapped).unwrap_or(RANGES[1]);
        Self { root, is_root, range, assigning: Mutex::default() }
    }

    /// Fails if accounts of environments cannot reach their own folders.
    pub(super) fn check_reachable(&self) -> Result<()> {
        for folder in std::fs::canonicalize(&self.root)?.ancestors().filter(|_| self.is_root) {
            let mode = std::fs::metadata(folder)?.mode();
            ensure!(
                mode & 0o001 != 0,
                "accounts of environments may not enter {0}; choose another data directory, or \
                 `chmod o+x {0}`",
                folder.display()
            );
        }
        Ok(())
    }

    /// True if each environment has an account of its own.
    pub(super) fn are_separate(&self) -> bool {
        self.is_root
    }

    /// The account of an environment: the owner of its data folder, whose parent only root changes.
    pub(super) fn get(&self, environment: &EnvironmentDir) -> Option<u32> {
        let owner = std::fs::symlink_metadata(environment.data()).ok()?.uid();
        // An earlier runner may have used the other range.
        let is_assigned = RANGES.iter().any(|it| owner >= it.first);
        (self.is_root && is_assigned).then_some(owner)
    }

    /// Gives a folder that the runner has just made to the environment's account.
    pub(super) fn give(&self, environment: &EnvironmentDir, folder: &Path) -> Result<()> {
        if !self.is_root {
            return Ok(());
        }
        let _assigning = self.assigning.lock().unwrap_or_else(PoisonError::into_inner);
        let account = match self.get(environment) {
            Some(account) => account,
            None => self.unused(environment)?,
        };
        chown(folder, Some(account), Some(account)).context("a folder cannot change its owner")
    }

    /// An account that no environment here has. The search starts at a number made from the environment's id,
    /// so that another runner of this machine assigns others.
    fn unused(&self, environment: &EnvironmentDir) -> Result<u32> {
        let mut used = BTreeSet::new();
        for entry in std::fs::read_dir(&self.root)? {
            if let Ok(data) = std::fs::symlink_metadata(entry?.path().join("data")) {
                used.insert(data.uid());
            }
        }
        let AccountRange { first, count } = self.range;
        let wanted = u32::try_from(environment.id().as_u128() & 0xffff_ffff).unwrap_or(0) % count;
        let mut candidates = (0..count).map(|it| first + (wanted + it) % count);
        candidates.find(|it| !used.contains(it)).context("no account is unused")
    }

    /// Kills every process of the environment's account, wherever it is.
    pub(super) fn kill_all(&self, environment: &EnvironmentDir) {
        let Some(account) = self.get(environment) else { return };
        // A process that forks while the table is read is caught by the next look.
        for _ in 0..10 {
            let table = ProcessTable::read();
            let rows = table.of_account(account);
            if rows.iter().all(|it| it.is_zombie) {
                break;
            }
            for row in rows {
                if let Some(pid) = i32::try_from(row.pid).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
    }
}

/// True if a file can belong to an account: in a container it may not be mapped.
fn can_own(root: &Path, account: u32) -> bool {
    let probe = root.join(".account");
    let owned = std::fs::write(&probe, "").is_ok() && chown(&probe, Some(account), None).is_ok();
    let _ = std::fs::remove_file(&probe);
    owned
}
