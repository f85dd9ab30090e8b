//! Command line of the proxy.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use primitives::{email, hostname};
use settings::TlsMode;

use crate::settings::{AcmeDns, ProxySettings, Tls};

/// URL of the directory of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Settings of the proxy on the command line.
#[derive(Args, Clone, Debug)]
pub struct ProxyArguments {
    /// Domain below which environments have their host names, `<environment>-<project>.<apps domain>`. All
    /// of its names (`*.<apps domain>`) must resolve to this server. Requires Caddy. Default: none;
    /// environments are reached at ports of this machine.
    #[arg(long, env = "TENANTRY_RUNNER_APPS_DOMAIN")]
    pub apps_domain: Option<String>,
    /// Path or name of the program Caddy, 2.6 or newer. Web sockets survive deployments with 2.7 or newer.
    #[arg(long, env = "TENANTRY_RUNNER_CADDY", default_value = "caddy")]
    pub caddy: PathBuf,
    /// Port on which Caddy serves http://, at all addresses of this machine.
    #[arg(long, env = "TENANTRY_RUNNER_HTTP_PORT", default_value_t = 80)]
    pub http_port: u16,
    /// Port on which Caddy serves https://, at all addresses of this machine.
    #[arg(long, env = "TENANTRY_RUNNER_HTTPS_PORT", default_value_t = 443)]
    pub https_port: u16,
    /// Origin of certificates: `internal` is Caddy's own authority, which browsers do not trust, `acme` a
    /// public one, which connects to port 80 or 443, `acme-dns` one that checks records on the DNS server of
    /// the organization, `off` serves http:// only. Default: `acme` if --acme-email is set, else `internal`.
    #[arg(long, env = "TENANTRY_RUNNER_TLS")]
    pub tls: Option<TlsMode>,
    /// E-mail address of the ACME account.
    #[arg(long, env = "TENANTRY_RUNNER_ACME_EMAIL")]
    pub acme_email: Option<String>,
    /// URL of the directory of the ACME authority. Default: Let's Encrypt.
    #[arg(long, env = "TENANTRY_RUNNER_ACME_DIRECTORY")]
    pub acme_directory: Option<String>,
    /// PEM file with the root certificate of the server of the ACME authority, for `acme-dns`. Default: the
    /// root certificates of the system.
    #[arg(long, env = "TENANTRY_RUNNER_ACME_CA")]
    pub acme_ca: Option<PathBuf>,
}

impl ProxyArguments {
    /// Returns the checked settings; `None` without an apps domain.
    pub fn checked(mut self) -> Result<Option<ProxySettings>> {
        let Some(apps_domain) = self.apps_domain.take().filter(|it| !it.is_empty()) else {
            return Ok(None);
        };
        ensure!(
            hostname::is_valid(&apps_domain),
            "--apps-domain {apps_domain} must be a domain of lower-case letters, digits and hyphens, \
             such as apps.example.com"
        );
        ensure!(self.http_port != self.https_port, "--http-port and --https-port must differ");
        let default = if self.acme_email.is_some() { TlsMode::Acme } else { TlsMode::Internal };
        let tls = match self.tls.unwrap_or(default) {
            TlsMode::Off => Tls::Off,
            TlsMode::Internal => Tls::Internal,
            TlsMode::Acme => Tls::Acme { email: self.email()?, directory: self.directory()? },
            TlsMode::AcmeDns => Tls::AcmeDns(AcmeDns {
                email: self.email()?,
                directory: self.directory()?.unwrap_or_else(|| LETS_ENCRYPT.to_owned()),
                ca: self.acme_ca,
            }),
        };
        let Self { caddy, http_port, https_port, .. } = self;
        Ok(Some(ProxySettings { apps_domain, caddy, http_port, https_port, tls }))
    }

    fn email(&self) -> Result<String> {
        let email = self.acme_email.clone().filter(|it| email::parse(it).is_some());
        email.context("--tls acme and acme-dns require --acme-email, an e-mail address")
    }

    fn directory(&self) -> Result<Option<String>> {
        let is_https = self.acme_directory.as_ref().is_none_or(|it| it.starts_with("https://"));
        ensure!(is_https, "--acme-directory must be a URL that begins with https://");
        Ok(self.acme_directory.clone())
    }
}
