//! The program of a service: command line, database, signals and exit code.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use chassis::Config;
use clap::{Parser, Subcommand};
use embedded_postgres::{Durability, Postgres};
use health::Readiness;
use rustix::process::{Resource, getrlimit, setrlimit};
use secrecy::ExposeSecret;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    DataDir, Host, Install,
    doctor::{self, Doctor},
    healthcheck::{self, Healthcheck},
    servers::Servers,
    telemetry::Telemetry,
};

/// A service of Tenantry.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    config: Config,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the database migrations of this service and exits.
    Migrate(Box<Config>),
    /// Checks the installation without serving: what a start would refuse, and the systems that it uses.
    Doctor(Box<Doctor>),
    /// Checks the health of this service; for container health checks.
    Healthcheck(Healthcheck),
}

/// Runs one service in a process of its own.
pub fn main(name: &'static str, install: Install) -> ExitCode {
    let Arguments { config, command } = settings::arguments::parse();
    block_on(async move {
        match command {
            None => Box::pin(serve(name, config, &[install], |_| {})).await,
            Some(Command::Migrate(config)) => migrate(*config, &[install]).await,
            Some(Command::Doctor(arguments)) => {
                doctor::run(*arguments, &[install], async |_, _| {}).await
            }
            Some(Command::Healthcheck(arguments)) => healthcheck::run(arguments).await,
        }
    })
}

/// Prints text to standard output.
pub fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Runs the database migrations of services.
pub async fn migrate(config: Config, installs: &[Install]) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Fails if a test has set it already.
    let _ = Telemetry::start("migrate", &Config { otlp_endpoint: None, ..config.clone() });
    let data_dir = DataDir::open(config.data_dir.as_deref())?;
    let (options, postgres) = database(&config, &data_dir).await?;
    let migrated = async {
        let mut host = Host::new(config, options, data_dir)?;
        for install in installs {
            install(&mut host)?;
        }
        host.migrate().await
    };
    let migrated = migrated.await;
    if let Some(postgres) = postgres {
        tokio::task::spawn_blocking(|| postgres.stop()).await?;
    }
    migrated?;
    print("the schemas are up to date\n")
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
    // First of all, because a signal without a handler would end this process without its database server.
    let stop = stop_signal()?;
    let telemetry = Telemetry::start(name, &config)?;
    let data_dir = DataDir::open(config.data_dir.as_deref())?;
    // First of all, because a port in use is the most frequent cause of a failed start.
    let socket = bind(config.listen)?;
    let (readiness, health_port) = start_health_port(&config, &telemetry).await?;
    let (options, postgres) = database(&config, &data_dir).await?;
    let host = Host::new(config, options, data_dir);
    let result = match host {
        Ok(host) => run(host.with_readiness(readiness), installs, socket, ready, stop).await,
        Err(error) => Err(error),
    };
    drop(health_port);
    // Also after a failure, or the server would keep running.
    if let Some(postgres) = postgres {
        tokio::task::spawn_blocking(|| postgres.stop()).await?;
    }
    tokio::task::spawn_blocking(|| telemetry.stop()).await?;
    result
}

/// Binds a socket to the address of `--listen`. Connections are refused until [`Host::run`] listens, so that
/// clients use other replicas in the meantime.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpSocket> {
    let socket = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Without it the address cannot be used for a minute after a previous process.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        std::io::Result::Ok(socket)
    };
    socket().with_context(|| cannot_listen(address))
}

/// Error text for an address of `--listen` that cannot be used.
pub(crate) fn cannot_listen(address: SocketAddr) -> String {
    format!("cannot listen on {address}; choose another address with --listen")
}

/// Listens on the address of `--health-listen`.
pub(crate) async fn bind_health(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; choose another address with --health-listen")
    })
}

/// Installs the services into a host and runs it until a signal.
async fn run(
    mut host: Host,
    installs: &[Install],
    socket: TcpSocket,
    ready: impl FnOnce(&Config),
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let config = host.config().clone();
    for install in installs {
        install(&mut host)?;
    }
    host.run(socket, || ready(&config), stop).await
}

/// Handles SIGINT, SIGTERM and SIGHUP from now on. The returned future resolves at the first of them, also if
/// it arrives before the first poll.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

/// Starts the health port, if there is one, before everything that takes long. It ends with the returned
/// value.
pub async fn start_health_port(
    config: &Config,
    telemetry: &Telemetry,
) -> anyhow::Result<(Readiness, JoinSet<()>)> {
    let readiness = Readiness::default();
    let mut port = JoinSet::new();
    if let Some(address) = config.health_listen {
        let listener = bind_health(address).await?;
        let metrics: health::Metrics = Arc::new(telemetry.prometheus());
        let stop = CancellationToken::new();
        port.spawn(health::serve(listener, readiness.clone(), Some(metrics), stop));
    }
    Ok((readiness, port))
}

/// Raises the soft limit of open files to the hard limit, because each connection is an open file. The usual
/// soft limit of 1024 is for programs that use `select`.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it fails, the soft limit stays in effect.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Returns the connection options of the configured database, of several servers those of the primary; or
/// starts a private server.
pub async fn database(
    config: &Config,
    data_dir: &DataDir,
) -> anyhow::Result<(PgConnectOptions, Option<Postgres>)> {
    if let Some(url) = &config.database_url {
        let patience = Duration::from_secs(config.database_patience_s);
        let servers = Servers::parse(url.expose_secret())?;
        return Ok((servers.wait_for_primary(patience).await, None));
    }
    let bin = config.pg_bin.as_deref();
    let postgres = Postgres::start(data_dir.path(), bin, Durability::Durable).await?;
    Ok((postgres.options(), Some(postgres)))
}
