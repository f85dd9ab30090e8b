//! System account that runs the server and owns its files. PostgreSQL refuses to run as root.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;

/// System accounts for the suite's own server; the first that exists is used.
pub(crate) const SUITE_ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// System accounts for the server of environments; the first that exists is used. Neither owns files of the
/// suite.
pub(crate) const ENVIRONMENT_ACCOUNTS: [&str; 2] = ["tenantry-databases", "nobody"];

/// System account that runs the server and owns its files.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Returns the first of the named accounts that exists. `None` if this process is not root: then the server
/// runs as the account of this process. PostgreSQL refuses to run as root.
pub(crate) fn owner(names: &[&str]) -> Result<Option<Owner>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd")?;
    let account = |name: &str| {
        let line = accounts.lines().find(|it| it.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Owner { uid, gid })
    };
    let found = names.iter().find_map(|it| account(it));
    let missing = || {
        let names = names.join(" or ");
        format!("PostgreSQL does not run as root, and there is no account {names}; create one")
    };
    Ok(Some(found.with_context(missing)?))
}

/// Fails if a data directory belongs to another account than the one that would run the server, before
/// anything is changed.
pub(crate) fn require_owner(data: &Path, owner: Option<Owner>) -> Result<()> {
    let Ok(metadata) = fs::metadata(data) else { return Ok(()) };
    let uid = owner.map_or_else(|| geteuid().as_raw(), |it| it.uid);
    ensure!(
        metadata.uid() == uid,
        "{} belongs to the account with the uid {}, but the server would run as uid {uid}; start this \
         program with the account that was used before, or set --data-dir to another directory",
        data.display(),
        metadata.uid()
    );
    Ok(())
}

/// Makes a command run as the server's account, without the environment variables of PostgreSQL clients and
/// servers (`PGOPTIONS`, `PGDATA`, …).
pub(crate) fn run_as(command: &mut Command, owner: Option<Owner>) -> &mut Command {
    let variables = std::env::vars_os().map(|it| it.0);
    for name in variables.filter(|it| it.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    if let Some(Owner { uid, gid }) = owner {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/")
}

/// Gives a directory to the server's account with mode 0700.
pub(crate) fn restrict_to_owner(path: &Path, owner: Option<Owner>) -> Result<()> {
    let restricted = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    let restricted = restricted.and_then(|()| match owner {
        Some(Owner { uid, gid }) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    });
    restricted.with_context(|| format!("cannot change owner and mode of {}", path.display()))
}

/// Fails if the server's account may not enter a directory or one of its parents.
pub(crate) fn check_access(directory: &Path, owner: Option<Owner>) -> Result<()> {
    let Some(Owner { uid, gid }) = owner else { return Ok(()) };
    for ancestor in fs::canonicalize(directory)?.ancestors() {
        let metadata = fs::metadata(ancestor)?;
        let execute_bit = if metadata.uid() == uid {
            0o100
        } else if metadata.gid() == gid {
            0o010
        } else {
            0o001
        };
        ensure!(
            metadata.mode() & execute_bit != 0,
            "the account that runs PostgreSQL (uid {uid}) may not enter {}; choose another --data-dir, or \
             `chmod o+x {}`",
            ancestor.display(),
            ancestor.display()
        );
    }
    Ok(())
}
