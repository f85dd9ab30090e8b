//! What an operator does to the audit log as a whole.

use anyhow::{Context, ensure};
use chassis::{Config, Host, host::DataDir, process};
use clap::Subcommand;

use crate::{serve::INSTALLS, tools::print};

/// What to do.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Derives the whole log again and names what differs. Ends badly if something does. Reads only; beside a
    /// running suite it needs --database-url and a copy of its data directory.
    Fsck(Box<Config>),
    /// Makes a new signing key. Both keys sign until `audit.key.previous` is removed.
    RotateKey(Box<Config>),
}

pub(crate) async fn run(it: Arguments) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match it.verb {
        Verb::Fsck(config) => fsck(*config).await,
        Verb::RotateKey(config) => {
            let folder = DataDir::open(config.data_dir.as_deref())?;
            audit::rotate_key(folder.path())?;
            print(
                "the log has a new key from its next start on, and signs with the old one, too; give the new \
                 one (LogService/GetVerifierKeys) to whoever verifies, then remove audit.key.previous\n",
            )
        }
    }
}

async fn fsck(config: Config) -> anyhow::Result<()> {
    let folder = DataDir::open(config.data_dir.as_deref())?;
    let (options, postgres) = process::database(&config, &folder).await?;
    let mut host = Host::new(config, options, folder)?;
    for install in INSTALLS {
        install(&mut host)?;
    }
    let found = audit::fsck(&host).await;
    drop(host);
    if let Some(postgres) = postgres {
        tokio::task::spawn_blocking(|| postgres.stop()).await?;
    }
    let found = found.context(
        "the log cannot be read; in a database that was just restored, run `tenantry migrate` first",
    )?;
    print(&found.to_string())?;
    ensure!(found.differs.is_empty(), "the log is not what was signed");
    Ok(())
}
