//! The program of a service: command line, database, signals and exit code.

use std::process::ExitCode;

use anyhow::Context;
use chassis::Config;
use clap::Parser;
use embedded_postgres::{Durability, Postgres};
use rustix::process::{Resource, getrlimit, setrlimit};
use secrecy::ExposeSecret;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{DataDir, Host, Install, telemetry::Telemetry};

/// A service of Tenantry.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(flatten)]
    config: Config,
}

/// Runs one service in a process of its own.
pub fn main(name: &'static str, install: Install) -> ExitCode {
    let config = Arguments::parse().config;
    block_on(async move { serve(name, config, &[install], |_| {}).await })
}

/// Runs a future to its end. An error is printed to standard error and gives a failing exit code.
pub fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("threads can be created");
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "tenantry: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Serves services until SIGTERM or Ctrl-C. `ready` is called once, when the process is ready for calls.
pub async fn serve(
    name: &'static str,
    config: Config,
    installs: &[Install],
    ready: impl FnOnce(&Config),
) -> anyhow::Result<()> {
    // Several providers are compiled in; without a default the first TLS connection would panic.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    raise_file_limit();
    let telemetry = Telemetry::start(name, &config)?;
    let data_dir = DataDir::open(config.data_dir.as_deref())?;
    // First of all, because a port in use is the most frequent cause of a failed start.
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| {
        format!("cannot listen on {}; choose another address with --listen", config.listen)
    })?;
    let (options, postgres) = database(&config, &data_dir).await?;
    let result = run(config, options, data_dir, installs, listener, ready).await;
    // Also after a failure, or the server would keep running.
    if let Some(postgres) = postgres {
        tokio::task::spawn_blocking(|| postgres.stop()).await?;
    }
    tokio::task::spawn_blocking(|| telemetry.stop()).await?;
    result
}

/// Installs the services into a host and runs it until a signal.
async fn run(
    config: Config,
    options: PgConnectOptions,
    data_dir: DataDir,
    installs: &[Install],
    listener: TcpListener,
    ready: impl FnOnce(&Config),
) -> anyhow::Result<()> {
    let mut host = Host::new(config.clone(), options, data_dir)?;
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

/// Raises the soft limit of open files to the hard limit, because each connection is an open file. The usual
/// soft limit of 1024 is for programs that use `select`.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it fails, the soft limit stays in effect.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Returns the connection options of the configured database, or starts a private server.
pub async fn database(
    config: &Config,
    data_dir: &DataDir,
) -> anyhow::Result<(PgConnectOptions, Option<Postgres>)> {
    if let Some(url) = &config.database_url {
        let options = url.expose_secret().parse::<PgConnectOptions>();
        return Ok((
            options.context(
                "--database-url is not a valid URL; use for example postgres://user@host/tenantry",
            )?,
            None,
        ));
    }
    let bin = config.pg_bin.as_deref();
    let postgres = Postgres::start(data_dir.path(), bin, Durability::Durable).await?;
    Ok((postgres.options(), Some(postgres)))
}
