//! `tenantry keys`: creates the keys that several processes of a deployment share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chassis::key::Key;

use crate::tools::{self, Owner};

/// Arguments of `keys`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// File for the secret key of the deployment (`--key-file`), the same for all services.
    #[arg(long, default_value = "secret.key")]
    secret_key: PathBuf,
    /// File for the signing key of the audit log (`--audit-key-file`), the same for all replicas of the log.
    #[arg(long, default_value = "audit.key")]
    audit_key: PathBuf,
    /// Account that owns the files, as numbers: `uid:gid`. Default: the account of this process.
    #[arg(long)]
    owner: Option<Owner>,
}

/// Creates the keys that are missing; existing ones stay.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { secret_key, audit_key, owner } = arguments;
    for file in [secret_key, audit_key] {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
    }
    create(secret_key, audit_key)?;
    for file in [secret_key, audit_key] {
        tools::set_owner(file, *owner)?;
    }
    let (secret_key, audit_key) = (secret_key.display(), audit_key.display());
    tools::print(&format!("the keys are in {secret_key} and {audit_key}\n"))
}

/// Creates the files that are missing.
pub(crate) fn create(secret_key: &Path, audit_key: &Path) -> Result<()> {
    Key::read_or_create(secret_key)?;
    if !audit_key.exists() {
        audit::generate_key(audit_key)?;
    }
    Ok(())
}
