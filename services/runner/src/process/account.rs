//! Accounts (numeric user ids) of environments: never root, one per environment, so that no environment can
//! read the files of another or signal its processes.

use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::{directory::EnvironmentDir, process_table::ProcessTable};

/// A contiguous range of user ids that this machine does not use otherwise.
#[derive(Clone, Copy)]
struct AccountRange {
    first: u32,
    count: u32,
}

/// Ranges in order of preference. The second one is for containers, where only small user ids may be mapped.
const RANGES: [AccountRange; 2] = [
    AccountRange { first: 600_000, count: 1_000_000_000 },
    AccountRange { first: 20_000, count: 40_000 },
];

/// Accounts for the proxy, in order of preference: beside the ranges of environments.
const PROXY_ACCOUNTS: [u32; 2] = [599_999, 19_999];

/// Accounts for the processes that write the output of programs, in order of preference.
const LOG_ACCOUNTS: [u32; 2] = [599_998, 19_998];

/// Assigns accounts if this process is root; otherwise all deployed code runs as the account of this process.
pub(super) struct Accounts {
    root: PathBuf,
    is_root: bool,
    range: AccountRange,
    /// Locked while an account is chosen, so that two environments never get the same one.
    assignment: Mutex<()>,
}

impl Accounts {
    /// Creates the accounts of the environments below `root`.
    pub(super) fn new(root: PathBuf) -> Self {
        let is_root = geteuid().is_root();
        let is_mapped = |it: &AccountRange| is_root && can_own(&root, it.first + it.count - 1);
        // If no range can be used, `set_owner` fails.
        let range = RANGES.into_iter().find(is_mapped).unwrap_or(RANGES[1]);
        Self { root, is_root, range, assignment: Mutex::default() }
    }

    /// Fails if accounts of environments may not enter the parents of their own directories. Succeeds if this
    /// process is not root, because deployed code then runs as the owner of the directories.
    pub(super) fn check_reachable(&self) -> Result<()> {
        if !self.is_root {
            return Ok(());
        }
        for folder in std::fs::canonicalize(&self.root)?.ancestors() {
            let mode = std::fs::metadata(folder)?.mode();
            ensure!(
                mode & 0o001 != 0,
                "deployed programs run as users of their own, which cannot enter {0}; choose another data \
                 directory, or run `chmod o+x {0}`",
                folder.display()
            );
        }
        Ok(())
    }

    /// Returns the account of the proxy; `None` if this process is not root: then it is that of the runner.
    pub(super) fn of_proxy(&self) -> Result<Option<u32>> {
        self.of_program("the proxy", PROXY_ACCOUNTS)
    }

    /// Returns the account that writes the output of programs; `None` if this process is not root.
    pub(super) fn of_logs(&self) -> Result<Option<u32>> {
        self.of_program("the output of programs", LOG_ACCOUNTS)
    }

    /// Returns the first of these accounts that may own files.
    fn of_program(&self, purpose: &str, accounts: [u32; 2]) -> Result<Option<u32>> {
        if !self.is_root {
            return Ok(None);
        }
        let account = accounts.into_iter().find(|it| can_own(&self.root, *it));
        Ok(Some(
            account
                .with_context(|| format!("no user id for {purpose} is mapped in this container"))?,
        ))
    }

    /// Returns true if each environment has an account of its own.
    pub(super) fn are_separate(&self) -> bool {
        self.is_root
    }

    /// Returns the account of an environment: the owner of its data directory, which only root can change.
    pub(super) fn get(&self, environment: &EnvironmentDir) -> Option<u32> {
        let owner = std::fs::symlink_metadata(environment.data()).ok()?.uid();
        // A previous runner may have used the other range. Ids in neither range belong to the machine.
        let is_assigned = RANGES.iter().any(|it| owner >= it.first && owner - it.first < it.count);
        (self.is_root && is_assigned).then_some(owner)
    }

    /// Makes the environment's account the owner of a directory that the runner has just created.
    pub(super) fn set_owner(&self, environment: &EnvironmentDir, folder: &Path) -> Result<()> {
        if !self.is_root {
            return Ok(());
        }
        let _lock = self.assignment.lock().unwrap_or_else(PoisonError::into_inner);
        let account = match self.get(environment) {
            Some(account) => account,
            None => self.find_unused(environment)?,
        };
        chown(folder, Some(account), Some(account))
            .with_context(|| format!("cannot change the owner of {}", folder.display()))
    }

    /// Returns an account that no environment below `root` has. The search starts at a number
    /// from the environment's id, so that several runners of one machine rarely choose the same account.
    fn find_unused(&self, environment: &EnvironmentDir) -> Result<u32> {
        let mut used = BTreeSet::new();
        for entry in std::fs::read_dir(&self.root)? {
            if let Ok(data) = std::fs::symlink_metadata(entry?.path().join("data")) {
                used.insert(data.uid());
            }
        }
        let AccountRange { first, count } = self.range;
        let offset = u32::try_from(environment.id().as_u128() & 0xffff_ffff).unwrap_or(0) % count;
        let mut candidates = (0..count).map(|it| first + (offset + it) % count);
        candidates.find(|it| !used.contains(it)).context("all accounts for environments are in use")
    }

    /// Kills every process of the environment's account, including those outside of its process tree.
    pub(super) fn kill_all(&self, environment: &EnvironmentDir) {
        let Some(account) = self.get(environment) else { return };
        // Repeated, because a process may fork while the process table is being read.
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

/// Returns true if files can be owned by an account: in a container, only some user ids are mapped to the
/// machine's (user_namespaces(7)).
fn can_own(root: &Path, account: u32) -> bool {
    let probe = root.join(".account");
    let owned = std::fs::write(&probe, "").is_ok() && chown(&probe, Some(account), None).is_ok();
    let _ = std::fs::remove_file(&probe);
    owned
}
