//! Every setting: one flag, one environment variable, one help text. The README's table is made from it.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::Ipv4Net;
use secrecy::SecretString;

/// Settings of a process of the suite.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Address to serve on. Without TLS only a loopback address is accepted.
    #[arg(long, env = "TENANTRY_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Where the private PostgreSQL, keys and mail live. Default: /var/lib/tenantry for root, else
    /// ~/.local/share/tenantry.
    #[arg(long, env = "TENANTRY_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// A PostgreSQL server, 15 or newer: an owner of the schemas, who can make roles, or the role of a
    /// service (`tenantry_identity`, …), for which `tenantry migrate` was run by the owner. Without it a
    /// private server is started in the data directory.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
    /// The folder with the `postgres` and `initdb` of the private PostgreSQL. Default: what `pg_config`
    /// says, then the usual folders.
    #[arg(long, env = "TENANTRY_PG_BIN")]
    pub pg_bin: Option<PathBuf>,
    /// A NATS server with JetStream. Without it events stay inside the process, which only the all-in-one
    /// can do.
    #[arg(long, env = "NATS_URL")]
    pub nats_url: Option<String>,
    /// Seconds after which a service hands an event that the audit log lacks to it directly, around NATS.
    #[arg(long, env = "TENANTRY_NATS_PATIENCE_S", default_value_t = 5)]
    pub nats_patience_s: u64,
    /// File with the deployment's secret key: 64 hexadecimal digits. Default: made in the data directory.
    #[arg(long, env = "TENANTRY_KEY_FILE")]
    pub key_file: Option<PathBuf>,
    /// What the links in mails begin with: where people reach the pages of the invitation service.
    /// Default: `http://localhost` with the port of --listen (https with TLS).
    #[arg(long, env = "TENANTRY_BASE_URL")]
    pub base_url: Option<String>,
    /// SMTP server, for example `smtps://user:password@mail.example.com`. Without it each mail becomes an
    /// .eml file in the data directory and a line on the console.
    #[arg(long, env = "TENANTRY_SMTP_URL", hide_env_values = true)]
    pub smtp_url: Option<SecretString>,
    /// Whether a mail that became a file is shown on the console, too, with its link.
    #[arg(long, env = "TENANTRY_MAIL_CONSOLE", default_value_t = true, action = clap::ArgAction::Set)]
    pub mail_console: bool,
    /// Sender of mails.
    #[arg(long, env = "TENANTRY_MAIL_FROM", default_value = "Tenantry <tenantry@localhost>")]
    pub mail_from: String,
    /// Certificate of this service (PEM), which names it as `spiffe://tenantry/svc/<name>`.
    #[arg(long, env = "TENANTRY_TLS_CERT", requires_all = ["tls_key", "tls_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM).
    #[arg(long, env = "TENANTRY_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// The authority that signed the services' certificates (PEM).
    #[arg(long, env = "TENANTRY_TLS_CA", requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,
    /// Where the identity service is, if not in this process.
    #[arg(long, env = "TENANTRY_IDENTITY_URL", default_value = "https://identity:50051")]
    pub identity_url: String,
    /// Where the project service is, if not in this process.
    #[arg(long, env = "TENANTRY_PROJECT_URL", default_value = "https://project:50051")]
    pub project_url: String,
    /// Where the invitation service is, if not in this process.
    #[arg(long, env = "TENANTRY_INVITATION_URL", default_value = "https://invitation:50051")]
    pub invitation_url: String,
    /// Where the audit service is, if not in this process.
    #[arg(long, env = "TENANTRY_AUDIT_URL", default_value = "https://audit:50051")]
    pub audit_url: String,
    /// Whether reflection is served, with which grpcurl lists and describes.
    #[arg(long, env = "TENANTRY_REFLECTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub reflection: bool,
    /// Calls in flight; more are refused with UNAVAILABLE.
    #[arg(long, env = "TENANTRY_IN_FLIGHT_MAX", default_value_t = 512)]
    pub in_flight_max: usize,
    /// Open connections; more are closed at once. Loopback may hold half of them, a trusted proxy all.
    #[arg(long, env = "TENANTRY_CONNECTIONS_MAX", default_value_t = 4096)]
    pub connections_max: usize,
    /// Open connections of one network address: an IPv4 address, or an IPv6 network of 64 bits.
    #[arg(long, env = "TENANTRY_CONNECTIONS_PER_ADDRESS_MAX", default_value_t = 128)]
    pub connections_per_address_max: usize,
    /// Open calls: streams, and runners that wait for work. Loopback may hold half of them, a trusted proxy
    /// all. They do not count as calls in flight.
    #[arg(long, env = "TENANTRY_OPEN_CALLS_MAX", default_value_t = 4096)]
    pub open_calls_max: usize,
    /// Open calls of one network address.
    #[arg(long, env = "TENANTRY_OPEN_CALLS_PER_ADDRESS_MAX", default_value_t = 256)]
    pub open_calls_per_address_max: usize,
    /// Open calls of one account.
    #[arg(long, env = "TENANTRY_OPEN_CALLS_PER_ACCOUNT_MAX", default_value_t = 32)]
    pub open_calls_per_account_max: usize,
    /// Open calls in one organization.
    #[arg(long, env = "TENANTRY_OPEN_CALLS_PER_ORG_MAX", default_value_t = 256)]
    pub open_calls_per_org_max: usize,
    /// Seconds that a call may take.
    #[arg(long, env = "TENANTRY_DEADLINE_S_MAX", default_value_t = 30)]
    pub deadline_s_max: u64,
    /// Seconds that calls in flight get to end at shutdown.
    #[arg(long, env = "TENANTRY_DRAIN_S_MAX", default_value_t = 10)]
    pub drain_s_max: u64,
    /// Sign-ins, registrations and password resets that one network address may try in a minute (I-06);
    /// 0 means no limit. Behind a proxy that all calls come through, name it with --trusted-proxies.
    #[arg(long, env = "TENANTRY_SIGN_INS_MAX", default_value_t = 20)]
    pub sign_ins_max: u32,
    /// Addresses of proxies, with commas between them, whose `x-forwarded-for` is believed.
    #[arg(long, env = "TENANTRY_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpAddr>,
    /// Organizations that one account may create (ID-32).
    #[arg(long, env = "TENANTRY_CREATED_ORGS_MAX", default_value_t = 1)]
    pub created_orgs_max: i64,
    /// Invitations that one organization may make in an hour (IN-21), and four times as many in a day; 0
    /// means no limit.
    #[arg(long, env = "TENANTRY_INVITATIONS_MAX", default_value_t = 50)]
    pub invitations_max: i64,
    /// Invitations, of all organizations together, that are mailed to one address in a day; for the others
    /// the link can be copied. 0 means no limit.
    #[arg(long, env = "TENANTRY_INVITATION_MAILS_MAX", default_value_t = 3)]
    pub invitation_mails_max: i64,
    /// Addresses and ports to which webhooks may go although they are not public, in plain http, too: for
    /// receivers in the same network. With commas between them: `127.0.0.1:8080,10.0.0.0/8:443`.
    #[arg(long, env = "TENANTRY_WEBHOOK_EXCEPTIONS", value_delimiter = ',')]
    pub webhook_exceptions: Vec<String>,
    /// Name server that finds the addresses of webhooks, with its port. Default: those of the system.
    #[arg(long, env = "TENANTRY_WEBHOOK_DNS")]
    pub webhook_dns: Option<SocketAddr>,
    /// Whether a project's repository may be a path on the runner's machine. For trying out, not for
    /// strangers: a path is read with the runner's rights.
    #[arg(long, env = "TENANTRY_LOCAL_REPOSITORIES", default_value_t = false, action = clap::ArgAction::Set)]
    pub local_repositories: bool,
    /// Whether deployed code runs although this machine cannot isolate it completely: a sandbox, and an
    /// account, a network and control groups for each environment. For code of your own, not for strangers'.
    #[arg(
        long,
        env = "TENANTRY_ALLOW_WEAK_ISOLATION",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub allow_weak_isolation: bool,
    /// Addresses of environments on the runner's machine, if the runner is root. Nothing else may use them
    /// there.
    #[arg(long, env = "TENANTRY_RUNNER_NETWORK", default_value = "10.213.0.0/16")]
    pub runner_network: Ipv4Net,
    /// Private networks that deployed programs and git may reach, with commas between them; they reach public
    /// addresses only.
    #[arg(long, env = "TENANTRY_RUNNER_REACHABLE_NETWORKS", value_delimiter = ',')]
    pub runner_reachable_networks: Vec<Ipv4Net>,
    /// Identity provider, by OpenID Connect, with which people can sign in: its issuer, as its tokens name
    /// it.
    #[arg(long, env = "TENANTRY_OIDC_ISSUER", requires = "oidc_client_id")]
    pub oidc_issuer: Option<String>,
    /// Who we are at the identity provider.
    #[arg(long, env = "TENANTRY_OIDC_CLIENT_ID")]
    pub oidc_client_id: Option<String>,
    /// Our secret at the identity provider, if it gave us one.
    #[arg(long, env = "TENANTRY_OIDC_CLIENT_SECRET", hide_env_values = true)]
    pub oidc_client_secret: Option<SecretString>,
    /// Where the identity provider sends people back to. Default: the base URL with /callback.
    #[arg(long, env = "TENANTRY_OIDC_REDIRECT_URL")]
    pub oidc_redirect_url: Option<String>,
    /// Name of the audit log in its checkpoints.
    #[arg(long, env = "TENANTRY_AUDIT_ORIGIN", default_value = "tenantry.localhost/audit")]
    pub audit_origin: String,
    /// Witnesses whose signatures under the suite's head are taken: C2SP verifier keys of type 4, with commas
    /// between them.
    #[arg(long, env = "TENANTRY_AUDIT_WITNESS_KEYS", value_delimiter = ',')]
    pub audit_witness_keys: Vec<String>,
    /// OTLP collector for traces and metrics. Without it none are sent.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// What is logged: a level, or levels by module.
    #[arg(long, env = "RUST_LOG", default_value = "info,async_nats=warn,sqlx=warn")]
    pub log: String,
    /// Whether the log is JSON lines.
    #[arg(long, env = "TENANTRY_LOG_JSON", default_value_t = false, action = clap::ArgAction::Set)]
    pub log_json: bool,
}

impl Config {
    /// What links begin with, without a slash at the end. Configuration only: no request has a say (N-08).
    pub fn base_url(&self) -> String {
        let here = || {
            let scheme = if self.tls_cert.is_some() { "https" } else { "http" };
            format!("{scheme}://localhost:{}", self.listen.port())
        };
        self.base_url.as_ref().map_or_else(here, |it| it.trim_end_matches('/').to_owned())
    }
}
