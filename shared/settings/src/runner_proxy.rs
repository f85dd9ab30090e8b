//! Settings of the proxy of the runner that belongs to the suite.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Origin of the certificates of environments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsMode {
    /// Caddy's own authority, which browsers do not trust.
    Internal,
    /// A public authority with the ACME protocol (RFC 8555), which connects to port 80 or 443.
    Acme,
    /// An authority with the ACME protocol that checks records on the DNS server of the organization
    /// (DNS-01).
    AcmeDns,
    /// No certificates: environments are served over http://.
    Off,
}

/// Settings of the proxy of the runner. `tenantry-runner` has the same ones, without the prefix `runner-`.
#[derive(Args, Clone, Debug)]
pub struct RunnerProxy {
    /// Domain below which environments have their host names, `<environment>-<project>.<apps domain>`. All of
    /// its names (`*.<apps domain>`) must resolve to the runner's machine. Requires Caddy. Default: none;
    /// environments are reached at ports of that machine.
    #[arg(long, env = "TENANTRY_RUNNER_APPS_DOMAIN")]
    pub runner_apps_domain: Option<String>,
    /// Path or name of the program Caddy, 2.6 or newer. Web sockets survive deployments with 2.7 or newer.
    #[arg(long, env = "TENANTRY_RUNNER_CADDY", default_value = "caddy")]
    pub runner_caddy: PathBuf,
    /// Port on which Caddy serves http://, at all addresses of the runner's machine.
    #[arg(long, env = "TENANTRY_RUNNER_HTTP_PORT", default_value_t = 80)]
    pub runner_http_port: u16,
    /// Port on which Caddy serves https://, at all addresses of the runner's machine.
    #[arg(long, env = "TENANTRY_RUNNER_HTTPS_PORT", default_value_t = 443)]
    pub runner_https_port: u16,
    /// Origin of the certificates of environments: `internal` is Caddy's own authority, which browsers do not
    /// trust, `acme` a public one, which connects to port 80 or 443, `acme-dns` one that checks records on
    /// the DNS server of the organization, `off` serves http:// only. Default: `acme` with
    /// --runner-acme-email, else `internal`.
    #[arg(long, env = "TENANTRY_RUNNER_TLS")]
    pub runner_tls: Option<TlsMode>,
    /// E-mail address of the ACME account for environments.
    #[arg(long, env = "TENANTRY_RUNNER_ACME_EMAIL")]
    pub runner_acme_email: Option<String>,
    /// URL of the directory of the ACME authority. Default: Let's Encrypt.
    #[arg(long, env = "TENANTRY_RUNNER_ACME_DIRECTORY")]
    pub runner_acme_directory: Option<String>,
    /// PEM file with the root certificate of the server of the ACME authority, for `acme-dns`. Default: the
    /// root certificates of the system.
    #[arg(long, env = "TENANTRY_RUNNER_ACME_CA")]
    pub runner_acme_ca: Option<PathBuf>,
}
