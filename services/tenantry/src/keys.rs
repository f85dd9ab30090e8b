//! `tenantry keys`: creates the keys that several processes of a deployment share, and rotates the secret
//! key.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chassis::key::{self, Key};
use clap::Subcommand;

use crate::tools::{self, Owner};

/// Arguments of `keys`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    create: Create,
    #[command(subcommand)]
    step: Option<Step>,
}

#[derive(clap::Args)]
struct Create {
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

/// A step of the rotation of the secret key. All processes are restarted after each step.
#[derive(Subcommand)]
enum Step {
    /// Adds a new secret key to the file, which every process must accept before it is used.
    Add {
        /// File with the secret key of the deployment (`--key-file`).
        #[arg(long, default_value = "secret.key")]
        secret_key: PathBuf,
    },
    /// Makes a secret key of the file the current one; the others stay as previous keys.
    Promote {
        /// Id of the key, as printed by `add`.
        id: String,
        /// File with the secret keys of the deployment (`--key-file`).
        #[arg(long, default_value = "secret.key")]
        secret_key: PathBuf,
    },
    /// Removes a previous secret key, which `tenantry doctor` reports as not needed.
    Remove {
        /// Id of the key.
        id: String,
        /// File with the secret keys of the deployment (`--key-file`).
        #[arg(long, default_value = "secret.key")]
        secret_key: PathBuf,
    },
}

impl Step {
    fn run(&self) -> Result<()> {
        match self {
            Self::Add { secret_key } => {
                let id = key::add_key(secret_key)?;
                let file = secret_key.display();
                tools::print(&format!(
                    "{file} has the new key {id}; restart all processes, then run\n\
                     `tenantry keys promote {id}`\n"
                ))
            }
            Self::Promote { id, secret_key } => {
                key::promote_key(secret_key, id)?;
                let file = secret_key.display();
                tools::print(&format!(
                    "{id} is the current key of {file}; restart all processes, then wait until `tenantry \
                     doctor` reports\nthat the previous key is not needed\n"
                ))
            }
            Self::Remove { id, secret_key } => {
                key::remove_key(secret_key, id)?;
                let file = secret_key.display();
                tools::print(&format!("{file} has no key {id} any more; restart all processes\n"))
            }
        }
    }
}

/// Creates the keys that are missing, of which existing ones stay; or changes the file with the secret keys.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { create: Create { secret_key, audit_key, owner }, step } = arguments;
    if let Some(step) = step {
        return step.run();
    }
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
