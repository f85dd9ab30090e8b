//! The account that deployed code runs as: never root.

use std::{os::unix::fs::chown, path::Path};

use anyhow::{Context, Result};
use rustix::process::geteuid;
use tokio::process::Command;

/// An account without rights.
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// If this process is root, the account `nobody`; otherwise deployed code runs as this process does.
    pub(crate) fn unprivileged() -> Result<Option<Self>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let accounts = std::fs::read_to_string("/etc/passwd")?;
        let line = accounts.lines().find(|it| it.starts_with("nobody:"));
        let mut fields =
            line.context("there is no account nobody to run deployed code as")?.split(':').skip(2);
        let mut number = || fields.next().and_then(|it| it.parse().ok());
        let found = (|| Some(Self { uid: number()?, gid: number()? }))();
        Ok(Some(found.context("the account nobody has no number")?))
    }

    /// Gives a folder to the account.
    pub(crate) fn own(&self, folder: &Path) -> Result<()> {
        Ok(chown(folder, Some(self.uid), Some(self.gid))?)
    }

    /// Runs a command as the account.
    pub(crate) fn run(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}
