//! The programs of an installed PostgreSQL.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// Oldest supported major version.
const MAJOR_MIN: u32 = 15;

/// Remedy in error messages.
const INSTALL: &str = "install it, for example with `apt-get install postgresql`, or set --pg-bin to its \
                       directory, or set --database-url to a server";

/// Returns the path of a PostgreSQL program such as `pg_dump`.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(find_programs(None)?.join(name))
}

/// Finds the directory of the programs: the configured one, or the newest installed version that is
/// supported.
pub(crate) fn find_programs(configured: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = configured {
        let is_complete = path.join("postgres").exists() && path.join("initdb").exists();
        ensure!(is_complete, "{} contains no postgres and initdb; {INSTALL}", path.display());
        return Ok(path.to_owned());
    }
    let mut candidates = vec![];
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        candidates.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    if let Ok(entries) = fs::read_dir("/usr/lib/postgresql") {
        let mut installed: Vec<_> = entries.flatten().map(|it| it.path().join("bin")).collect();
        installed.sort();
        candidates.extend(installed.into_iter().rev());
    }
    let usual = ["/usr/bin", "/usr/local/bin", "/usr/local/pgsql/bin", "/opt/homebrew/bin"];
    candidates.extend(usual.iter().map(PathBuf::from));
    let found = candidates.into_iter().find(|it| {
        it.join("postgres").exists()
            && it.join("initdb").exists()
            && major_version(it).is_ok_and(|it| it >= MAJOR_MIN)
    });
    found.with_context(|| {
        format!("PostgreSQL {MAJOR_MIN} or newer was not found on this machine; {INSTALL}")
    })
}

/// Returns the major version of the program `postgres`.
pub(crate) fn major_version(bin: &Path) -> Result<u32> {
    let output = Command::new(bin.join("postgres")).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_whitespace().nth(2).and_then(|it| it.split('.').next()?.parse().ok());
    number
        .with_context(|| format!("{}/postgres --version returns no version: {text}", bin.display()))
}
