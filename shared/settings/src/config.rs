//! Settings: each has a flag, an environment variable and a help text. The configuration reference is
//! generated from this file.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::{IpNet, Ipv4Net};
use secrecy::SecretString;

use crate::{
    parse::{base_url, network, origin},
    registry::ServiceUrls,
    retention::Retention,
    runner_docker::RunnerDocker,
    runner_proxy::RunnerProxy,
};

/// Settings of a process of the suite.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Address to serve on. Without TLS only a loopback address is accepted.
    #[arg(long, env = "TENANTRY_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Address of a plain HTTP port for probes and Prometheus, with the paths `/livez`, `/readyz` and
    /// `/metrics`. It serves nothing else, so it needs no TLS. Default: none.
    #[arg(long, env = "TENANTRY_HEALTH_LISTEN")]
    pub health_listen: Option<SocketAddr>,
    /// Unix socket of the AdminService, for operators (`grpcurl -plaintext unix:///…`, `tenantry admin`).
    /// Only the user of the process and root can open it. `none` for no socket. Default: `admin.sock` in the
    /// data directory.
    #[arg(long, env = "TENANTRY_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,
    /// Directory for the private PostgreSQL server, keys and mails. Default: /var/lib/tenantry for root, else
    /// ~/.local/share/tenantry.
    #[arg(long, env = "TENANTRY_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// PostgreSQL server (15 or newer); several addresses with commas between them are those of a primary and
    /// its standbys: `postgres://user@first:5432,second:5432/tenantry`. The user is the owner of the schemas,
    /// with the privilege CREATEROLE, or the role of a service (`tenantry_identity`, …) after the owner has
    /// run `tenantry migrate`. Default: a private server in the data directory.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
    /// Seconds to wait at the start for the database server, and for `tenantry migrate`.
    #[arg(long, env = "TENANTRY_DATABASE_PATIENCE_S", default_value_t = 60)]
    pub database_patience_s: u64,
    /// Largest number of connections of each service to the database, half of them for reads. A process with
    /// all four services opens up to four times as many. If the server allows fewer, a start warns and uses
    /// fewer, down to four for each service.
    #[arg(
        long,
        env = "TENANTRY_DATABASE_CONNECTIONS_MAX",
        default_value_t = 16,
        value_parser = clap::value_parser!(u32).range(4..)
    )]
    pub database_connections_max: u32,
    /// Applies pending migrations at the start. Without it a start waits until `tenantry migrate` has applied
    /// them.
    #[arg(long, env = "TENANTRY_MIGRATE", default_value_t = true, action = clap::ArgAction::Set)]
    pub migrate: bool,
    /// Directory of the programs `postgres` and `initdb` for the private PostgreSQL server. Default: that of
    /// `pg_config --bindir`, then the usual directories.
    #[arg(long, env = "TENANTRY_PG_BIN")]
    pub pg_bin: Option<PathBuf>,
    /// NATS server with JetStream, which carries events between processes; several of a cluster with commas
    /// between them. Credentials are percent-encoded: `nats://user:pass%40word@host` or `nats://token@host`.
    /// Required unless all services run in one process.
    #[arg(long, env = "NATS_URL", hide_env_values = true)]
    pub nats_url: Option<String>,
    /// Number of NATS nodes that store each event: 3 for a cluster of three, which goes on without one of
    /// them. A larger number adds replicas to the existing stream; a smaller one removes none.
    #[arg(long, env = "TENANTRY_NATS_STREAM_REPLICAS", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=5))]
    pub nats_stream_replicas: u8,
    /// Seconds after which a service sends an event that the audit log has not received through NATS to it
    /// directly.
    #[arg(long, env = "TENANTRY_NATS_PATIENCE_S", default_value_t = 5)]
    pub nats_patience_s: u64,
    /// File with the secret key of the deployment: 64 hexadecimal digits, the same for all services. During a
    /// rotation, further lines are previous keys. Default: created in the data directory.
    #[arg(long, env = "TENANTRY_KEY_FILE")]
    pub key_file: Option<PathBuf>,
    /// Base URL of the links in mails, at which browsers reach the pages of the invitation service. Default:
    /// `http://localhost` with the port of --listen (https with TLS).
    #[arg(long, env = "TENANTRY_BASE_URL", value_parser = base_url)]
    pub base_url: Option<String>,
    /// Base URL of push webhooks, at which git servers reach the project service. Default: --base-url.
    #[arg(long, env = "TENANTRY_PUSH_URL", value_parser = base_url)]
    pub push_url: Option<String>,
    /// SMTP server, for example `smtps://user:password@mail.example.com`. Default: no server; each mail is
    /// written to an .eml file in the data directory.
    #[arg(long, env = "TENANTRY_SMTP_URL", hide_env_values = true)]
    pub smtp_url: Option<SecretString>,
    /// Prints the recipient, subject and link of each mail to the console, if there is no SMTP server.
    #[arg(long, env = "TENANTRY_MAIL_CONSOLE", default_value_t = true, action = clap::ArgAction::Set)]
    pub mail_console: bool,
    /// Sender address of mails.
    #[arg(long, env = "TENANTRY_MAIL_FROM", default_value = "Tenantry <tenantry@localhost>")]
    pub mail_from: String,
    /// TLS certificate of this service (PEM file) with the URI name `spiffe://tenantry/svc/<name>`.
    #[arg(long, env = "TENANTRY_TLS_CERT", requires_all = ["tls_key", "tls_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the TLS certificate (PEM file).
    #[arg(long, env = "TENANTRY_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Certificate of the authority that signed the certificates of all services (PEM file).
    #[arg(long, env = "TENANTRY_TLS_CA", requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,
    /// URLs of the other services.
    #[command(flatten)]
    pub service_urls: ServiceUrls,
    /// Origins of web pages whose scripts may call through gRPC-Web (CORS), with commas between them:
    /// `https://app.example.com,http://localhost:3000`. Default: none.
    #[arg(long, env = "TENANTRY_WEB_ORIGINS", value_delimiter = ',', value_parser = origin)]
    pub web_origins: Vec<String>,
    /// Serves gRPC reflection, with which grpcurl lists and describes methods.
    #[arg(long, env = "TENANTRY_REFLECTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub reflection: bool,
    /// Largest number of calls in flight. Further calls fail with UNAVAILABLE.
    #[arg(long, env = "TENANTRY_IN_FLIGHT_MAX", default_value_t = 512)]
    pub in_flight_max: usize,
    /// Largest number of open connections. Further ones are closed at once. Loopback addresses may use half
    /// of them, a trusted proxy all.
    #[arg(long, env = "TENANTRY_CONNECTIONS_MAX", default_value_t = 4096)]
    pub connections_max: usize,
    /// Largest number of open connections from one network address (an IPv4 address or an IPv6 /64 network).
    #[arg(long, env = "TENANTRY_CONNECTIONS_PER_ADDRESS_MAX", default_value_t = 128)]
    pub connections_per_address_max: usize,
    /// Time without a request after which a connection is closed, in milliseconds.
    #[arg(
        long,
        env = "TENANTRY_CONNECTION_IDLE_MS_MAX",
        default_value_t = 300_000,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub connection_idle_ms_max: u64,
    /// Age of a connection in milliseconds at which the client has to connect again, so that it also finds
    /// new replicas. Calls in flight have another minute; then open streams end with UNAVAILABLE
    /// (`CONNECTION_EXPIRED`).
    #[arg(
        long,
        env = "TENANTRY_CONNECTION_AGE_MS_MAX",
        default_value_t = 1_800_000,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub connection_age_ms_max: u64,
    /// Largest number of open calls: streams, and long polls of runners. They do not count as calls in
    /// flight. Loopback addresses may use half of them, a trusted proxy all.
    #[arg(long, env = "TENANTRY_OPEN_CALLS_MAX", default_value_t = 4096)]
    pub open_calls_max: usize,
    /// Largest number of open calls from one network address.
    #[arg(long, env = "TENANTRY_OPEN_CALLS_PER_ADDRESS_MAX", default_value_t = 256)]
    pub open_calls_per_address_max: usize,
    /// Largest number of open calls of one account.
    #[arg(long, env = "TENANTRY_OPEN_CALLS_PER_ACCOUNT_MAX", default_value_t = 32)]
    pub open_calls_per_account_max: usize,
    /// Largest number of open calls in one organization.
    #[arg(long, env = "TENANTRY_OPEN_CALLS_PER_ORG_MAX", default_value_t = 256)]
    pub open_calls_per_org_max: usize,
    /// Longest duration of a call, in seconds.
    #[arg(long, env = "TENANTRY_DEADLINE_S_MAX", default_value_t = 30)]
    pub deadline_s_max: u64,
    /// Longest time that a shutdown waits for calls in flight, in seconds.
    #[arg(long, env = "TENANTRY_DRAIN_S_MAX", default_value_t = 10)]
    pub drain_s_max: u64,
    /// Attempts per minute to log in, register or reset a password from one network address (I-06); 0 means
    /// no limit. Set --trusted-proxies if clients connect through a proxy.
    #[arg(long, env = "TENANTRY_SIGN_INS_MAX", default_value_t = 20)]
    pub sign_ins_max: u32,
    /// Addresses or networks of trusted proxies (`x-forwarded-for`), with commas between them:
    /// `192.0.2.1,10.0.0.0/8`.
    #[arg(long, env = "TENANTRY_TRUSTED_PROXIES", value_delimiter = ',', value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,
    /// Largest number of organizations that one account may create (ID-32).
    #[arg(long, env = "TENANTRY_CREATED_ORGS_MAX", default_value_t = 1)]
    pub created_orgs_max: i64,
    /// Invitations per hour of one organization (IN-21); the limit per day is four times as high. 0 means no
    /// limit.
    #[arg(long, env = "TENANTRY_INVITATIONS_MAX", default_value_t = 50)]
    pub invitations_max: i64,
    /// Invitation mails per day to one e-mail address, from all organizations together. The links of further
    /// invitations can be copied instead. 0 means no limit.
    #[arg(long, env = "TENANTRY_INVITATION_MAILS_MAX", default_value_t = 3)]
    pub invitation_mails_max: i64,
    /// Private addresses or networks, with ports, to which webhooks are delivered, also over plain http. With
    /// commas between them: `127.0.0.1:8080,10.0.0.0/8:443`. Default: none; webhooks go to public addresses
    /// over https.
    #[arg(long, env = "TENANTRY_WEBHOOK_EXCEPTIONS", value_delimiter = ',')]
    pub webhook_exceptions: Vec<String>,
    /// Private addresses or networks, with ports, to which connections go, for example of a Git server, a DNS
    /// server or storage in the own network. With commas between them: `10.1.2.3:22,10.0.0.0/8:443`. Default:
    /// none; connections go to public addresses.
    #[arg(long, env = "TENANTRY_CONNECTION_EXCEPTIONS", value_delimiter = ',')]
    pub connection_exceptions: Vec<String>,
    /// URL of the Cloudflare API, for DNS connections.
    #[arg(
        long,
        env = "TENANTRY_CLOUDFLARE_URL",
        default_value = "https://api.cloudflare.com/client/v4"
    )]
    pub cloudflare_url: String,
    /// Directory in which organizations may store files with connections to folders, each in a subdirectory
    /// of its own. It must exist; several processes of the project service need a shared one. Default: none,
    /// such connections are refused.
    #[arg(long, env = "TENANTRY_STORAGE_FOLDER")]
    pub storage_folder: Option<PathBuf>,
    /// DNS server for the host names of webhooks and connections and for the proofs of custom domains, with
    /// its port. Default: the DNS servers of the system.
    #[arg(long, env = "TENANTRY_WEBHOOK_DNS")]
    pub webhook_dns: Option<SocketAddr>,
    /// Allows paths on the runner's machine, and `http://` with a loopback address, as repositories of
    /// projects. They are read with the runner's permissions, so use it for evaluation only.
    #[arg(long, env = "TENANTRY_LOCAL_REPOSITORIES", default_value_t = false, action = clap::ArgAction::Set)]
    pub local_repositories: bool,
    /// Runs deployed code although the machine cannot isolate it completely (sandbox, and a system account,
    /// network and control groups for each environment). Use it only if you trust all deployed code.
    #[arg(
        long,
        env = "TENANTRY_ALLOW_WEAK_ISOLATION",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub allow_weak_isolation: bool,
    /// Address at which deployed programs are reached on the runner's machine. Default: only from that
    /// machine.
    #[arg(long, env = "TENANTRY_RUNNER_BIND", default_value = "127.0.0.1")]
    pub runner_bind: IpAddr,
    /// Host name or address in the URLs of deployed programs. Default: the value of --runner-bind.
    #[arg(long, env = "TENANTRY_RUNNER_ADDRESS")]
    pub runner_address: Option<String>,
    /// Administrator URL (`postgres://…`) of a PostgreSQL server for the databases of environments, other
    /// than that of the suite. Default: the runner starts its own server when the first environment needs
    /// one.
    #[arg(long, env = "TENANTRY_RUNNER_DATABASE_URL", hide_env_values = true)]
    pub runner_database_url: Option<SecretString>,
    /// Network for the addresses of environments on the runner's machine, if the runner is root. Nothing else
    /// on the machine may use it.
    #[arg(long, env = "TENANTRY_RUNNER_NETWORK", default_value = "10.213.0.0/16")]
    pub runner_network: Ipv4Net,
    /// Private networks that deployed programs and git may connect to, with commas between them. Default:
    /// none; they may connect to public addresses only.
    #[arg(long, env = "TENANTRY_RUNNER_REACHABLE_NETWORKS", value_delimiter = ',')]
    pub runner_reachable_networks: Vec<Ipv4Net>,
    /// Memory of a build in MiB, if that is more than the memory of its environment. A build that exceeds it
    /// fails. Up to eight builds run at once. Default: 2048, but at most half of the machine's memory.
    #[arg(
        long,
        env = "TENANTRY_RUNNER_BUILD_MEMORY_MB",
        value_parser = clap::value_parser!(u32).range(256..)
    )]
    pub runner_build_memory_mb: Option<u32>,
    /// Container engine of environments.
    #[command(flatten)]
    pub runner_docker: RunnerDocker,
    /// Proxy in front of environments.
    #[command(flatten)]
    pub runner_proxy: RunnerProxy,
    /// Time for which rows are kept.
    #[command(flatten)]
    pub retention: Retention,
    /// Issuer URL of an OpenID Connect identity provider, with which people can log in.
    #[arg(long, env = "TENANTRY_OIDC_ISSUER", requires = "oidc_client_id")]
    pub oidc_issuer: Option<String>,
    /// Client id at the identity provider.
    #[arg(long, env = "TENANTRY_OIDC_CLIENT_ID")]
    pub oidc_client_id: Option<String>,
    /// Client secret at the identity provider, if it issued one.
    #[arg(long, env = "TENANTRY_OIDC_CLIENT_SECRET", hide_env_values = true)]
    pub oidc_client_secret: Option<SecretString>,
    /// Redirect URL, registered at the identity provider. Default: the base URL with /callback.
    #[arg(long, env = "TENANTRY_OIDC_REDIRECT_URL")]
    pub oidc_redirect_url: Option<String>,
    /// Provider of payments. Without one plan changes are free, and nothing is charged.
    #[arg(long, env = "TENANTRY_BILLING_PROVIDER", value_enum, default_value_t = BillingProvider::None)]
    pub billing_provider: BillingProvider,
    /// Days from the first failed payment until changes in an organization are refused (PL-47).
    #[arg(long, env = "TENANTRY_BILLING_GRACE_DAYS", default_value_t = 14)]
    pub billing_grace_days: u32,
    /// Days of the trial of an organization's first paid plan. 0 means no trial.
    #[arg(long, env = "TENANTRY_BILLING_TRIAL_DAYS", default_value_t = 14)]
    pub billing_trial_days: u32,
    /// URL to which the pages of the billing provider return. Default: the base URL.
    #[arg(long, env = "TENANTRY_BILLING_RETURN_URL")]
    pub billing_return_url: Option<String>,
    /// File with the secret key or a restricted key of Stripe.
    #[arg(long, env = "TENANTRY_STRIPE_KEY_FILE")]
    pub stripe_key_file: Option<PathBuf>,
    /// File with the signing secret of the webhook endpoint at Stripe, whose URL is the base URL with
    /// `/hooks/billing/stripe`. Several lines while the secret is replaced.
    #[arg(long, env = "TENANTRY_STRIPE_WEBHOOK_SECRET_FILE")]
    pub stripe_webhook_secret_file: Option<PathBuf>,
    /// Price ids of Stripe by plan, with commas between them: `starter=price_1,pro=price_2`. A plan without a
    /// price is not sold.
    #[arg(long, env = "TENANTRY_STRIPE_PRICES", value_delimiter = ',')]
    pub stripe_prices: Vec<String>,
    /// Plans whose price is for each member (PL-49), with commas between them.
    #[arg(long, env = "TENANTRY_STRIPE_SEAT_PLANS", value_delimiter = ',')]
    pub stripe_seat_plans: Vec<String>,
    /// URL of the Stripe API.
    #[arg(long, env = "TENANTRY_STRIPE_URL", default_value = "https://api.stripe.com")]
    pub stripe_url: String,
    /// File with the signing key of the audit log (Ed25519, PKCS #8), the same for all replicas. Default:
    /// `audit.key`, created in the data directory.
    #[arg(long, env = "TENANTRY_AUDIT_KEY_FILE")]
    pub audit_key_file: Option<PathBuf>,
    /// Origin of the audit log: its name in checkpoints (C2SP tlog-checkpoint).
    #[arg(long, env = "TENANTRY_AUDIT_ORIGIN", default_value = "tenantry.localhost/audit")]
    pub audit_origin: String,
    /// File with the witnesses of the audit log, their URLs, and the quorum that must cosign a checkpoint
    /// before it is published (C2SP tlog-policy). Default: none; checkpoints are published when they are
    /// signed.
    #[arg(long, env = "TENANTRY_AUDIT_WITNESSES")]
    pub audit_witnesses: Option<PathBuf>,
    /// Publishes the tree of all checkpoints at `/audit/suite/` as C2SP tlog-tiles, without a credential. It
    /// has the ids of all organizations, and the number of entries and the time of each of their checkpoints.
    #[arg(
        long,
        env = "TENANTRY_AUDIT_PUBLISH_SUITE",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub audit_publish_suite: bool,
    /// Seconds between two checks of the whole audit log (`tenantry audit fsck`), which one replica runs in
    /// the background. 0 means never.
    #[arg(long, env = "TENANTRY_FSCK_INTERVAL_S", default_value_t = 86_400)]
    pub fsck_interval_s: u64,
    /// OTLP collector for traces and metrics. Default: none; no traces and metrics are sent.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// Protocol of the collector. Only gRPC is supported.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", value_enum, default_value_t = OtlpProtocol::Grpc)]
    pub otlp_protocol: OtlpProtocol,
    /// Exporter of traces.
    #[arg(long, env = "OTEL_TRACES_EXPORTER", value_enum, default_value_t = Exporter::Otlp)]
    pub traces_exporter: Exporter,
    /// Exporter of metrics.
    #[arg(long, env = "OTEL_METRICS_EXPORTER", value_enum, default_value_t = Exporter::Otlp)]
    pub metrics_exporter: Exporter,
    /// Switches traces and metrics off, also if a collector is configured.
    #[arg(long, env = "OTEL_SDK_DISABLED", default_value_t = false, action = clap::ArgAction::Set)]
    pub otel_sdk_disabled: bool,
    /// Name of the service in traces and metrics. Default: the name of the program.
    #[arg(long, env = "OTEL_SERVICE_NAME")]
    pub otel_service_name: Option<String>,
    /// Log level, or log levels by module (`info,sqlx=warn`).
    #[arg(long, env = "RUST_LOG", default_value = "info,async_nats=warn,sqlx=warn")]
    pub log: String,
    /// Writes the log as JSON lines.
    #[arg(long, env = "TENANTRY_LOG_JSON", default_value_t = false, action = clap::ArgAction::Set)]
    pub log_json: bool,
}

/// Provider of payments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BillingProvider {
    /// None: plan changes are free.
    None,
    /// Stripe.
    Stripe,
}

/// Protocol of an OTLP collector (OpenTelemetry environment variable specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OtlpProtocol {
    /// gRPC.
    Grpc,
}

/// Exporter of traces or metrics (OpenTelemetry environment variable specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Exporter {
    /// The OTLP collector.
    Otlp,
    /// None.
    None,
}

impl Config {
    /// Returns the base URL of links, without a slash at its end. It comes from the settings only; a `Host`
    /// header cannot change it (N-08).
    pub fn base_url(&self) -> String {
        let default = || {
            let scheme = if self.tls_cert.is_some() { "https" } else { "http" };
            format!("{scheme}://localhost:{}", self.listen.port())
        };
        self.base_url.as_ref().map_or_else(default, |it| it.trim_end_matches('/').to_owned())
    }

    /// Returns the base URL of push webhooks, without a slash at its end.
    pub fn push_url(&self) -> String {
        let url = self.push_url.as_ref().map(|it| it.trim_end_matches('/').to_owned());
        url.unwrap_or_else(|| self.base_url())
    }
}
