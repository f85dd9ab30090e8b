//! From the command line to a serving process and back.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};
use secrecy::ExposeSecret;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    config::Config,
    host::{DataDir, Host, Install},
    postgres::{Durability, Postgres},
    telemetry::Telemetry,
};

/// A service as a process of its own.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(flatten)]
    config: Config,
}

/// Runs one service as a process.
pub fn main(name: &'static str, install: Install) -> ExitCode {
    let config = Arguments::parse().config;
    block_on(async move { serve(name, config, &[install], |_| {}).await })
}

/// Runs a future to its end; an error becomes one sentence and a failing exit code.
pub fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("the operating system gives threads");
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "tenantry: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Serves these services until SIGTERM or Ctrl-C. `ready` is called once, when the suite serves.
pub async fn serve(
    name: &'static str,
    config: Config,
    installs: &[Install],
    ready: impl FnOnce(&Config),
) -> anyhow::Result<()> {
    // One provider; with two in the tree the first TLS connection would panic.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    raise_file_limit();
    let telemetry = Telemetry::start(name, &config)?;
    let folder = DataDir::open(config.data_dir.as_deref())?;
    // Before anything is started: the port is the most frequent thing that is taken.
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| {
        format!("cannot listen on {}; choose another address with --listen", config.listen)
    })?;
    let (options, postgres) = database(&config, &folder).await?;
    let served = run(config, options, folder, installs, listener, ready).await;
    // Also after a failure: a server that nobody stops would live on.
    if let Some(postgres) = postgres {
        tokio::task::spawn_blocking(|| postgres.stop()).await?;
    }
    tokio::task::spawn_blocking(|| telemetry.stop()).await?;
    served
}

async fn run(
    config: Config,
    options: PgConnectOptions,
    folder: DataDir,
    installs: &[Install],
    listener: TcpListener,
    ready: impl FnOnce(&Config),
) -> anyhow::Result<()> {
    let mut host = Host::new(config.clone(), options, folder)?;
    for install in installs {
        install(&mut host)?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    };
    host.run(listener, || ready(&config), stop).await
}

/// Raises the limit of open files, each connection being one, to what the operating system allows. The usual
/// soft limit of 1024 is there for programs that use `select`.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused at most where there is a lower limit of another kind, and then that one holds.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// The database that the settings name, or a private one.
pub async fn database(
    config: &Config,
    folder: &DataDir,
) -> anyhow::Result<(PgConnectOptions, Option<Postgres>)> {
    if let Some(url) = &config.database_url {
        let options = url.expose_secret().parse::<PgConnectOptions>();
        return Ok((options.context("the database address is not valid")?, None));
    }
    let bin = config.pg_bin.as_deref();
    let postgres = Postgres::start(folder.path(), bin, Durability::Durable).await?;
    Ok((postgres.options(), Some(postgres)))
}
