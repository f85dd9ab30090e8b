//! Command line of `tenantry-runner`, the runner of a connected server. It authenticates with the server's
//! agent token.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, ensure};
use api::project::runner_service_client::RunnerServiceClient;
use clap::{Parser, Subcommand};
use health::Readiness;
use ipnet::Ipv4Net;
use primitives::tls_connector;
use rustls::pki_types::ServerName;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    docker::arguments::DockerArguments,
    proxy::arguments::ProxyArguments,
    settings::{IsolationPolicy, NetworkSettings, Settings},
};

/// Executes the tasks of environments on this server. `ServerService/ConnectServer` returns the agent token.
#[derive(Parser)]
#[command(name = "tenantry-runner", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// URL of the project service. `http://` is accepted only for this machine.
    #[arg(long, env = "TENANTRY_PROJECT_URL", default_value = "http://127.0.0.1:50051")]
    project_url: String,
    /// CA certificate (PEM) that signed the certificate of the project service. Required with `https://`.
    #[arg(long, env = "TENANTRY_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// Agent token of this server, `tny_agt_…`.
    #[arg(long, env = "TENANTRY_AGENT_TOKEN", hide_env_values = true)]
    agent_token: Option<String>,
    /// File that contains the agent token; alternative to --agent-token.
    #[arg(long, env = "TENANTRY_AGENT_TOKEN_FILE")]
    agent_token_file: Option<PathBuf>,
    /// Directory of the environments' files.
    #[arg(long, env = "TENANTRY_RUNNER_DIR", default_value = "/var/lib/tenantry-runner")]
    data_dir: PathBuf,
    /// IP address at which deployed programs are reached on this machine. 0.0.0.0 publishes them at all of
    /// its addresses; the default, only to this machine.
    #[arg(long, env = "TENANTRY_RUNNER_BIND", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Administrator URL (`postgres://…`) of a PostgreSQL server for the databases of environments. Default:
    /// the runner starts its own server when the first environment needs one.
    #[arg(long, env = "TENANTRY_RUNNER_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Refuses to run deployed code without complete isolation: a sandbox, and an account, a network and
    /// control groups for each environment. Without this flag, missing isolation is only reported in the
    /// server's health.
    #[arg(long, env = "TENANTRY_RUNNER_REQUIRE_ISOLATION")]
    require_isolation: bool,
    /// Network (CIDR) for the addresses of environments, used if the runner is root. Nothing else on this
    /// machine may use it.
    #[arg(long, env = "TENANTRY_RUNNER_NETWORK", default_value = "10.213.0.0/16")]
    network: Ipv4Net,
    /// Private networks (CIDR, comma-separated) that deployed programs may reach. All other private networks
    /// are blocked.
    #[arg(long, env = "TENANTRY_RUNNER_REACHABLE_NETWORKS", value_delimiter = ',')]
    reachable_networks: Vec<Ipv4Net>,
    /// Memory of a build in MiB, if that is more than the memory of its environment. A build that exceeds it
    /// fails. Up to eight builds run at once. Default: 2048, but at most half of the machine's memory.
    #[arg(
        long,
        env = "TENANTRY_RUNNER_BUILD_MEMORY_MB",
        value_parser = clap::value_parser!(u32).range(256..)
    )]
    build_memory_mb: Option<u32>,
    /// Address of a plain HTTP port for probes, with the paths `/livez` and `/readyz`. Default: none.
    #[arg(long, env = "TENANTRY_HEALTH_LISTEN")]
    health_listen: Option<SocketAddr>,
    /// Log level, or levels by module (`tracing` filters).
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
    /// Host of the URLs of deployed programs. Default: the address of the server, unless --bind is a loopback
    /// address.
    #[arg(long, env = "TENANTRY_RUNNER_ADDRESS")]
    address: Option<String>,
    #[command(flatten)]
    docker: DockerArguments,
    #[command(flatten)]
    proxy: ProxyArguments,
}

#[derive(Subcommand)]
enum Command {
    /// Checks the health of the runner at its health port; for container health checks.
    Healthcheck {
        /// Address of the health port.
        #[arg(long, env = "TENANTRY_HEALTH_LISTEN")]
        health_listen: SocketAddr,
    },
}

/// Entry point of the binary. Prints an error as one line and exits with a failure code.
pub fn main() -> ExitCode {
    let arguments: Arguments = ::settings::arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("the operating system provides threads");
    let work = async {
        match &arguments.command {
            Some(Command::Healthcheck { health_listen }) => health::check(*health_listen).await,
            None => run(arguments).await,
        }
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "tenantry-runner: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    start_log(&arguments.log)?;
    let token = read_agent_token(&arguments)?;
    let bearer: MetadataValue<Ascii> =
        format!("Bearer {token}").parse().context("the agent token has invalid characters")?;
    let channel = connect(&arguments.project_url, arguments.tls_ca.as_deref())?;
    let client =
        RunnerServiceClient::with_interceptor(channel, move |request| authorize(request, &bearer));
    let settings = Settings {
        // The agent token identifies the server; the name appears only in logs.
        name: "runner".to_owned(),
        address: arguments.address,
        data_dir: arguments.data_dir,
        bind: arguments.bind,
        database_url: arguments.database_url,
        isolation: if arguments.require_isolation {
            IsolationPolicy::Required
        } else {
            // Only the organization of a connected server deploys to it. Missing isolation is reported in
            // the server's health.
            IsolationPolicy::BestEffort
        },
        network: NetworkSettings {
            addresses: arguments.network,
            reachable: arguments.reachable_networks,
        },
        build_memory_mb: arguments.build_memory_mb,
        proxy: arguments.proxy.checked()?,
        docker: arguments.docker.settings(),
    };
    let stop = CancellationToken::new();
    let registered = CancellationToken::new();
    let health = serve_health(arguments.health_listen, registered.clone()).await?;
    let work = crate::run(client, settings, registered, stop.clone());
    tokio::pin!(work, health);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        done = &mut work => return done,
        () = &mut health => {}
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    stop.cancel();
    work.await
}

/// Returns the task of the health port, which reports ready when the project service has registered the
/// runner. Without a port the task does nothing. It never ends.
async fn serve_health(
    address: Option<SocketAddr>,
    registered: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()>> {
    let listener = match address {
        Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address}; choose another address with --health-listen")
        })?),
        None => None,
    };
    let readiness = Readiness::default();
    let reported = readiness.clone();
    let report = async move {
        registered.cancelled().await;
        reported.set_ready();
    };
    Ok(async move {
        if let Some(listener) = listener {
            let stop = CancellationToken::new();
            tokio::join!(report, health::serve(listener, readiness, None, stop));
        }
        std::future::pending::<()>().await;
    })
}

/// Starts logging to standard error.
fn start_log(filter: &str) -> anyhow::Result<()> {
    let text = tracing_subscriber::fmt::layer().compact().with_writer(std::io::stderr);
    // Without terminal escapes in files.
    let text = text.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    Ok(tracing_subscriber::registry().with(text).with(EnvFilter::try_new(filter)?).try_init()?)
}

/// Adds the agent token to a request.
#[expect(clippy::unnecessary_wraps, reason = "the signature of an interceptor")]
fn authorize(
    mut request: Request<()>,
    bearer: &MetadataValue<Ascii>,
) -> Result<Request<()>, Status> {
    request.metadata_mut().insert("authorization", bearer.clone());
    Ok(request)
}

fn read_agent_token(arguments: &Arguments) -> anyhow::Result<String> {
    let text = match (&arguments.agent_token, &arguments.agent_token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the token file {}", path.display()))?,
        (None, None) => anyhow::bail!(
            "the agent token is missing: set --agent-token or --agent-token-file \
             (ServerService/ConnectServer returns the token)"
        ),
    };
    let token = text.trim().to_owned();
    ensure!(
        token.starts_with("tny_agt_"),
        "invalid agent token: a valid token begins with tny_agt_"
    );
    Ok(token)
}

/// Returns a channel to the project service that connects on first use. Refuses unencrypted connections to
/// other machines, because they would reveal the token. Each connection reads the file of the authority, so
/// that a new one needs no restart.
fn connect(url: &str, tls_ca: Option<&Path>) -> anyhow::Result<Channel> {
    let uri: Uri =
        url.parse().with_context(|| format!("--project-url {url} is not a valid URL"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let is_loopback = |address: IpAddr| address.is_loopback();
    let is_local = host == "localhost" || host.parse().is_ok_and(is_loopback);
    let with_limits = |endpoint: Endpoint| {
        endpoint
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
    };
    if uri.scheme_str() == Some("https") {
        let path = tls_ca.context("https:// requires --tls-ca, the CA certificate to trust")?;
        let path = path.to_owned();
        let config = move || {
            let pem = std::fs::read(&path);
            let config = pem
                .map_err(anyhow::Error::from)
                .and_then(|it| tls_connector::config(tls_connector::authorities(&it)?, None));
            config.with_context(|| format!("cannot use the CA certificate {}", path.display()))
        };
        config()?;
        let name = ServerName::try_from(host)?;
        let authority =
            format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(443));
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))?.origin(uri);
        return Ok(with_limits(endpoint)
            .connect_with_connector_lazy(tls_connector::connector(name, config)));
    }
    ensure!(
        is_local,
        "refusing to send the agent token unencrypted to {host}: use https:// and --tls-ca"
    );
    Ok(with_limits(Endpoint::from_shared(url.to_owned())?).connect_lazy())
}
