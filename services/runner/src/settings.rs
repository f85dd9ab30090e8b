//! Settings of a runner.

use std::{net::IpAddr, path::PathBuf};

use ipnet::Ipv4Net;
pub use settings::RecipeImage;

/// Isolation that a server must provide before it runs deployed code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsolationPolicy {
    /// Complete isolation: sandbox, and account, network and control groups per environment. For shared
    /// servers, where tenants deploy untrusted code.
    Required,
    /// A sandbox; other isolation that the machine cannot provide is only reported. For servers whose owner
    /// is the only one who deploys to them.
    BestEffort,
}

/// Settings of a runner.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the runner. Identifies the runner of a shared server to the project service; the runner of a
    /// connected server is identified by its agent token, and its name appears only in logs.
    pub name: String,
    /// Directory of the environments' files.
    pub data_dir: PathBuf,
    /// IP address that deployed programs listen on.
    pub bind: IpAddr,
    /// Host of the URLs of deployed programs. `None`: the address of a connected server, else `bind`.
    pub address: Option<String>,
    /// Administrator URL (`postgres://…`) of the PostgreSQL server of environments. `None`: the runner starts
    /// its own server.
    pub database_url: Option<String>,
    /// Isolation without which nothing is deployed.
    pub isolation: IsolationPolicy,
    /// Networks of environments.
    pub network: NetworkSettings,
    /// Memory of a build in MiB, if that is more than the memory of its environment. `None`: 2,048, but at
    /// most half of the machine's memory.
    pub build_memory_mb: Option<u32>,
    /// Proxy in front of environments. `None`: they are reached at ports of this machine.
    pub proxy: Option<ProxySettings>,
    /// Container engine. `None`: all programs run in sandboxes.
    pub docker: Option<DockerSettings>,
}

/// Settings of the container engine.
#[derive(Clone, Debug)]
pub struct DockerSettings {
    /// Path of its Unix socket.
    pub socket: PathBuf,
    /// Image on which versions without a Dockerfile run.
    pub base_image: Option<String>,
    /// File with credentials of registries, in the format of `docker login` (`config.json`).
    pub credentials_file: Option<PathBuf>,
    /// True: the runner fails without the engine, and refuses versions for which there is no image. False:
    /// without the engine or an image, versions run in sandboxes.
    pub is_required: bool,
    /// Recipes of programs without a Dockerfile.
    pub recipes: RecipeSettings,
}

/// Settings of recipes.
#[derive(Clone, Debug, Default)]
pub struct RecipeSettings {
    /// Directory with recipes of the operator. `None`: only those of the suite.
    pub directory: Option<PathBuf>,
    /// Base images of recipes, in place of their own.
    pub images: Vec<RecipeImage>,
}

impl Settings {
    /// Returns the address of a shared server.
    pub(crate) fn shared_address(&self) -> String {
        self.address.clone().unwrap_or_else(|| self.bind.to_string())
    }
}

/// Settings for the networks of environments.
#[derive(Clone, Debug)]
pub struct NetworkSettings {
    /// Network for the addresses of environments; nothing else on this machine may use it.
    pub addresses: Ipv4Net,
    /// Private networks that deployed programs may reach.
    pub reachable: Vec<Ipv4Net>,
}

/// Settings of the proxy, Caddy.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// Domain below which environments have their host names.
    pub apps_domain: String,
    /// Path of the program, or its name in `PATH`.
    pub caddy: PathBuf,
    /// Port of http://.
    pub http_port: u16,
    /// Port of https://; unused with [`Tls::Off`].
    pub https_port: u16,
    /// Origin of certificates.
    pub tls: Tls,
}

/// Origin of certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// None: environments are served over http.
    Off,
    /// Caddy's own authority.
    Internal,
    /// A public authority (RFC 8555), asked by Caddy, which proves each host name at port 80 or 443.
    Acme {
        /// E-mail address of the account.
        email: String,
        /// URL of its directory. `None`: that of Caddy.
        directory: Option<String>,
    },
    /// An authority (RFC 8555), asked by the runner, which proves each host name by a record on the DNS
    /// server of the organization (DNS-01).
    AcmeDns(AcmeDns),
}

/// Settings of an ACME authority that the runner asks for certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeDns {
    /// E-mail address of the account.
    pub email: String,
    /// URL of its directory.
    pub directory: String,
    /// PEM file with the root certificate of the authority's own server. `None`: those of the system.
    pub ca: Option<PathBuf>,
}
