//! The runner of a connected server as a program: it needs an address to call and its agent token.

use std::{net::IpAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, ensure};
use api::project::runner_service_client::RunnerServiceClient;
use clap::Parser;
use ipnet::Ipv4Net;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::{IsolationPolicy, NetworkSettings, Settings, client::RemoteClient};

/// Executes the tasks of environments on this server. `ServerService/ConnectServer` gives the token.
#[derive(Parser)]
#[command(name = "tenantry-runner", version)]
struct Arguments {
    /// Address of the project service. `http://` only on this machine.
    #[arg(long, env = "TENANTRY_PROJECT_URL", default_value = "http://127.0.0.1:50051")]
    project_url: String,
    /// The authority that signed the certificate of the project service (PEM). Needed with `https://`.
    #[arg(long, env = "TENANTRY_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// The agent token of this server, `tny_agt_…`.
    #[arg(long, env = "TENANTRY_AGENT_TOKEN", hide_env_values = true)]
    agent_token: Option<String>,
    /// A file with the agent token, instead.
    #[arg(long, env = "TENANTRY_AGENT_TOKEN_FILE")]
    agent_token_file: Option<PathBuf>,
    /// Folder of environments.
    #[arg(long, env = "TENANTRY_RUNNER_DIR", default_value = "/var/lib/tenantry-runner")]
    data_dir: PathBuf,
    /// The address that deployed programs listen on.
    #[arg(long, env = "TENANTRY_RUNNER_BIND", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// The administrator of a PostgreSQL on which environments get their databases, `postgres://…`. Without
    /// it the runner starts one of its own when the first is needed.
    #[arg(long, env = "TENANTRY_RUNNER_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Whether this server refuses to run deployed code that it cannot isolate completely: a sandbox, and
    /// an account, a network and control groups for each environment. Without it the server's health says
    /// what is missing.
    #[arg(long, env = "TENANTRY_RUNNER_REQUIRE_ISOLATION")]
    require_isolation: bool,
    /// Addresses of environments on this machine, if the runner is root. Nothing else may use them here.
    #[arg(long, env = "TENANTRY_RUNNER_NETWORK", default_value = "10.213.0.0/16")]
    network: Ipv4Net,
    /// Private networks that deployed programs may reach, with commas between them; they reach public
    /// addresses only.
    #[arg(long, env = "TENANTRY_RUNNER_REACHABLE_NETWORKS", value_delimiter = ',')]
    reachable_networks: Vec<Ipv4Net>,
    /// Log level, or levels by module (`tracing` filters).
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
    /// Host part of the URLs of deployed programs. Default: the address that they listen on.
    #[arg(long, env = "TENANTRY_RUNNER_ADDRESS")]
    address: Option<String>,
}

/// The binary.
pub fn main() -> ExitCode {
    chassis::process::block_on(run(Arguments::parse()))
}

async fn run(it: Arguments) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    chassis::telemetry::log(&it.log)?;
    let bearer = format!("Bearer {}", token(&it)?).parse().context("the token is no token")?;
    let client = RunnerServiceClient::new(connect(&it)?);
    let settings = Settings {
        // The token says whose runner it is; the name is for the log.
        name: "runner".to_owned(),
        address: it.address.unwrap_or_else(|| it.bind.to_string()),
        data_dir: it.data_dir,
        bind: it.bind,
        database_url: it.database_url,
        // Whoever connects a server deploys to it; its health says what it cannot give.
        isolation: if it.require_isolation {
            IsolationPolicy::Required
        } else {
            IsolationPolicy::BestEffort
        },
        network: NetworkSettings { addresses: it.network, reachable: it.reachable_networks },
    };
    let stop = CancellationToken::new();
    let client = Arc::new(RemoteClient { client, bearer: Some(bearer) });
    let work = crate::run(client, settings, CancellationToken::new(), stop.clone());
    tokio::pin!(work);
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = &mut work => return done,
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    stop.cancel();
    work.await
}

fn token(it: &Arguments) -> anyhow::Result<String> {
    let text = match (&it.agent_token, &it.agent_token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the token file {}", path.display()))?,
        (None, None) => anyhow::bail!(
            "a runner proves whose server this is: give it --agent-token or --agent-token-file \
             (ServerService/ConnectServer answers the token)"
        ),
    };
    let text = text.trim().to_owned();
    ensure!(text.starts_with("tny_agt_"), "an agent token begins with tny_agt_");
    Ok(text)
}

fn connect(it: &Arguments) -> anyhow::Result<Channel> {
    let url = &it.project_url;
    let endpoint =
        Endpoint::from_shared(url.clone()).with_context(|| format!("{url} is no address"))?;
    let host = endpoint.uri().host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let local = host == "localhost" || host.parse().is_ok_and(|it: IpAddr| it.is_loopback());
    let endpoint = if url.starts_with("https://") {
        let path = it.tls_ca.as_ref().context("https needs --tls-ca, the authority to trust")?;
        let authority = std::fs::read(path)
            .with_context(|| format!("cannot read the authority {}", path.display()))?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
        endpoint.tls_config(tls)?
    } else {
        ensure!(
            local,
            "the token must not cross a network in the clear: use https:// and --tls-ca"
        );
        endpoint
    };
    let second = std::time::Duration::from_secs(1);
    let endpoint = endpoint.connect_timeout(5 * second).http2_keep_alive_interval(20 * second);
    Ok(endpoint.tcp_nodelay(true).connect_lazy())
}
