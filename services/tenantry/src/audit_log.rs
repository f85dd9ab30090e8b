//! `tenantry audit`: operations on the complete audit log.

use anyhow::{Context, ensure};
use chassis::Config;
use clap::Subcommand;
use host::{DataDir, Host, process};

use crate::{serve::INSTALLS, tools::print};

/// Arguments of `audit`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    operation: Operation,
}

#[derive(Subcommand)]
enum Operation {
    /// Recomputes the complete log from its entries and lists all differences; exits with a failure if there
    /// are any. While the suite is running, use --database-url and a copy of the data directory.
    Fsck(Box<FsckArguments>),
    /// Creates a new signing key. The log signs with both keys until `audit.key.previous` is removed.
    RotateKey(Box<Config>),
}

#[derive(clap::Args)]
struct FsckArguments {
    /// Ends the quarantine of the logs that have no differences and, if no log has any, the stop of signing.
    /// Without it, nothing is written.
    #[arg(long)]
    release: bool,
    #[command(flatten)]
    config: Config,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match arguments.operation {
        Operation::Fsck(arguments) => fsck(*arguments).await,
        Operation::RotateKey(config) => {
            let data_dir = DataDir::open(config.data_dir.as_deref())?;
            audit::rotate_key(data_dir.path(), config.audit_key_file.as_deref())?;
            print(
                "new signing key created; after its next start the log signs with the old and the new key.\n\
                 Give the new verifier key (LogService/GetVerifierKeys) to everybody who verifies the log,\n\
                 then remove audit.key.previous\n",
            )
        }
    }
}

async fn fsck(arguments: FsckArguments) -> anyhow::Result<()> {
    let FsckArguments { release, config } = arguments;
    let release = if release { audit::Release::Intact } else { audit::Release::None };
    let data_dir = DataDir::open(config.data_dir.as_deref())?;
    let (options, postgres) = process::database(&config, &data_dir).await?;
    let mut host = Host::new(config, options, data_dir)?;
    for install in INSTALLS {
        install(&mut host)?;
    }
    let findings = audit::fsck(&host, release).await;
    drop(host);
    if let Some(postgres) = postgres {
        tokio::task::spawn_blocking(|| postgres.stop()).await?;
    }
    let findings = findings.context(
        "cannot read the log; if the database was just restored, run `tenantry migrate` first",
    )?;
    print(&findings.to_string())?;
    ensure!(findings.differences.is_empty(), "the log differs from its signed checkpoints");
    ensure!(
        findings.unreadable_keys.is_empty(),
        "keys of people cannot be decrypted; restore the listed rows from a backup"
    );
    Ok(())
}
