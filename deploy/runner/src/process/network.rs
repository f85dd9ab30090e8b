//! Networks of environments: a network namespace each, connected to one bridge of the machine. Programs
//! inside reach the internet, name servers and the services that the runner provides; they reach neither
//! the machine, nor each other, nor private networks. Made with `ip` (iproute2) and `nft` (nftables).

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use ipnet::Ipv4Net;
use rustix::process::geteuid;
use tokio::{io::AsyncWriteExt, process::Command, sync::Mutex};
use uuid::Uuid;

use super::{directory::EnvironmentDir, sandbox::PATH};

/// The bridge of this machine, shared by its runners.
const BRIDGE: &str = "tny0";

/// Time for one command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// Settings of environments' networks.
#[derive(Clone, Debug)]
pub struct NetworkSettings {
    /// Addresses of environments on this machine; nothing else here may use them.
    pub addresses: Ipv4Net,
    /// Private networks that programs may reach.
    pub reachable: Vec<Ipv4Net>,
}

/// The network of one environment.
#[derive(Clone, Debug)]
pub(super) struct EnvironmentNetwork {
    /// The namespace below `/run/netns`; `None` in the machine's own network.
    pub(super) namespace: Option<String>,
    /// The address at which its programs listen.
    pub(super) listen: IpAddr,
    /// The address at which this machine reaches them.
    pub(super) address: IpAddr,
}

/// Connection of environments to the network.
pub(super) enum Network {
    /// A namespace each.
    Namespaces(Namespaces),
    /// The network of the machine, with all that listens on its loopback.
    Host { bind: IpAddr },
}

/// Namespaces that hang on the bridge.
pub(super) struct Namespaces {
    settings: NetworkSettings,
    /// The address of URLs; loopback for a runner that serves this machine only.
    bind: IpAddr,
    /// Addresses of namespaces that are known; locked while one is made.
    addresses: Mutex<HashMap<Uuid, Ipv4Addr>>,
}

impl Network {
    /// The best of what this machine allows, found by making the bridge.
    pub(super) async fn probe(settings: &NetworkSettings, bind: IpAddr) -> Self {
        if !geteuid().is_root() {
            return Self::Host { bind };
        }
        let namespaces =
            Namespaces { settings: settings.clone(), bind, addresses: Mutex::default() };
        match namespaces.set_up().await {
            Ok(()) => Self::Namespaces(namespaces),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, "environments share the network of this machine");
                Self::Host { bind }
            }
        }
    }

    pub(super) fn is_separate(&self) -> bool {
        matches!(self, Self::Namespaces(_))
    }

    /// The address at which services of this machine are offered to environments.
    pub(super) fn service_address(&self) -> IpAddr {
        match self {
            Self::Namespaces(it) => it.gateway().into(),
            Self::Host { .. } => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// The addresses from which environments connect to services.
    pub(super) fn client_addresses(&self) -> String {
        match self {
            Self::Namespaces(it) => it.settings.addresses.to_string(),
            Self::Host { .. } => "127.0.0.1/32".to_owned(),
        }
    }

    /// Lets environments connect to a service.
    pub(super) async fn allow_service(&self, service: SocketAddr) -> Result<()> {
        let Self::Namespaces(_) = self else { return Ok(()) };
        let IpAddr::V4(address) = service.ip() else { bail!("{service} is not an IPv4 address") };
        ensure!(!address.is_loopback(), "environments do not reach {address}, a loopback address");
        let element = format!("{address} . {}", service.port());
        nft(&format!("add element inet tenantry services {{ {element} }}\n")).await
    }

    /// The network of an environment, made if it is not there.
    pub(super) async fn attach(&self, environment: &EnvironmentDir) -> Result<EnvironmentNetwork> {
        match self {
            Self::Namespaces(it) => it.attach(environment).await,
            Self::Host { bind } => {
                let address =
                    if bind.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { *bind };
                Ok(EnvironmentNetwork { namespace: None, listen: *bind, address })
            }
        }
    }

    /// Removes the network of an environment.
    pub(super) async fn detach(&self, environment: &EnvironmentDir) {
        if let Self::Namespaces(it) = self {
            it.addresses.lock().await.remove(&environment.id());
            let name = namespace_name(environment);
            let _ = run("ip", &["netns", "delete", &name]).await;
        }
    }

    /// Makes the port of a program reachable from outside. Returns whether it was free or this program's
    /// already: a port that another environment has is never taken over.
    pub(super) async fn publish(&self, network: &EnvironmentNetwork, port: u16) -> bool {
        let Some((map, key)) = self.published(port) else { return true };
        let element = format!("{map} {{ {key} : {} . {port} }}", network.address);
        nft(&format!("add element inet tenantry {element}\n")).await.is_ok()
    }

    /// Takes a port back, if it is published for this environment.
    pub(super) async fn unpublish(&self, network: &EnvironmentNetwork, port: u16) {
        let Some((map, key)) = self.published(port) else { return };
        let get = format!("get element inet tenantry {map} {{ {key} }}\n");
        let element = feed("nft", &["-f", "-"], &get).await.unwrap_or_default();
        if element.contains(&format!(": {} . {port}", network.address)) {
            let _ = nft(&format!("delete element inet tenantry {map} {{ {key} }}\n")).await;
        }
    }

    /// The host part of a program's URL.
    pub(super) fn place(&self, network: &EnvironmentNetwork, port: u16, outside: &str) -> String {
        match (self, self.published(port)) {
            (Self::Namespaces(_), None) => format!("{}:{port}", network.address),
            _ => format!("{outside}:{port}"),
        }
    }

    /// The map of nftables that holds a published port, and its key there; `None` where ports are not
    /// published.
    fn published(&self, port: u16) -> Option<(&'static str, String)> {
        let Self::Namespaces(Namespaces { bind: IpAddr::V4(bind), .. }) = self else { return None };
        match bind {
            bind if bind.is_loopback() => None,
            bind if bind.is_unspecified() => Some(("published_everywhere", port.to_string())),
            bind => Some(("published", format!("{bind} . {port}"))),
        }
    }
}

impl Namespaces {
    /// The bridge's own address: the first of the network.
    fn gateway(&self) -> Ipv4Addr {
        self.address_of(1)
    }

    fn address_of(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.settings.addresses.network().to_bits() + index)
    }

    async fn set_up(&self) -> Result<()> {
        if run("ip", &["link", "show", BRIDGE]).await.is_err() {
            // Another runner of this machine may be at it, too.
            let _ = run("ip", &["link", "add", BRIDGE, "type", "bridge"]).await;
        }
        let gateway = format!("{}/{}", self.gateway(), self.settings.addresses.prefix_len());
        run("ip", &["address", "replace", &gateway, "dev", BRIDGE]).await?;
        run("ip", &["link", "set", BRIDGE, "up"]).await?;
        let forwards = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
        let mut rules = self.rules();
        if forwards.trim() == "0" {
            // This machine was no router, and is none for anybody but environments.
            rules.push_str(FOREIGN_RULES);
        }
        nft(&rules).await?;
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("packets are not forwarded")
    }

    fn rules(&self) -> String {
        let listed = |elements: Vec<String>, set: &str| match elements.as_slice() {
            [] => String::new(),
            some => format!("add element inet tenantry {set} {{ {} }}\n", some.join(", ")),
        };
        let resolvers = name_servers().iter().map(ToString::to_string).collect();
        let reachable = self.settings.reachable.iter().map(ToString::to_string).collect();
        let masquerade = format!(
            "add rule inet tenantry postrouting ip saddr {} \
             oifname != {{ \"{BRIDGE}\", \"lo\" }} masquerade\n",
            self.settings.addresses
        );
        let (resolvers, reachable) =
            (listed(resolvers, "resolvers"), listed(reachable, "reachable"));
        [RULES, &masquerade, &resolvers, &reachable].concat()
    }

    async fn attach(&self, environment: &EnvironmentDir) -> Result<EnvironmentNetwork> {
        let mut addresses = self.addresses.lock().await;
        let namespace = namespace_name(environment);
        let exists = Path::new("/run/netns").join(&namespace).exists();
        let address = match addresses.get(&environment.id()) {
            Some(address) if exists => *address,
            _ => {
                let index = if let Some(index) = self.index_of(&namespace).await {
                    index
                } else {
                    let made = self.make(environment, &namespace).await;
                    made.context("the environment's network cannot be made")?
                };
                let address = self.address_of(index);
                addresses.insert(environment.id(), address);
                address
            }
        };
        let (listen, address) = (Ipv4Addr::UNSPECIFIED.into(), address.into());
        Ok(EnvironmentNetwork { namespace: Some(namespace), listen, address })
    }

    /// The index of a namespace that is there and complete.
    async fn index_of(&self, namespace: &str) -> Option<u32> {
        let arguments = ["-n", namespace, "-4", "-o", "address", "show", "dev", "eth0"];
        let text = run("ip", &arguments).await.ok()?;
        let address: Ipv4Net = text.split_whitespace().nth(3)?.parse().ok()?;
        address.addr().to_bits().checked_sub(self.settings.addresses.network().to_bits())
    }

    /// Makes a namespace. The name of its interface on the bridge holds its index, so the kernel gives each
    /// index away once, whichever runner of this machine asks.
    async fn make(&self, environment: &EnvironmentDir, namespace: &str) -> Result<u32> {
        let _ = run("ip", &["netns", "delete", namespace]).await;
        run("ip", &["netns", "add", namespace]).await?;
        let count = 1_u32 << (32 - u32::from(self.settings.addresses.prefix_len()));
        let hash = u32::try_from(environment.id().as_u128() & 0xffff_ffff).unwrap_or(0);
        // Without the network's own address, the gateway's and the broadcast address.
        let usable =
            count.checked_sub(3).filter(|it| *it > 0).context("the network is too small")?;
        for step in 0..usable {
            let index = 2 + (hash % usable + step) % usable;
            let outer = format!("tny{index}");
            let pair =
                ["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", namespace];
            match run("ip", &pair).await {
                Err(error) if error.to_string().contains("File exists") => continue,
                other => other?,
            };
            self.connect(namespace, &outer, index).await?;
            return Ok(index);
        }
        bail!("every address of {} is taken", self.settings.addresses)
    }

    async fn connect(&self, namespace: &str, outer: &str, index: u32) -> Result<()> {
        let prefix = self.settings.addresses.prefix_len();
        let outside = format!(
            "link set {outer} master {BRIDGE} up\n\
             link set {outer} type bridge_slave isolated on\n"
        );
        let inside = format!(
            "link set lo up\naddress add {}/{prefix} dev eth0\nlink set eth0 up\n\
             route add default via {}\n",
            self.address_of(index),
            self.gateway(),
        );
        feed("ip", &["-batch", "-"], &outside).await?;
        feed("ip", &["-n", namespace, "-batch", "-"], &inside).await?;
        Ok(())
    }
}

/// The name of an environment's namespace: the random half of its id.
fn namespace_name(environment: &EnvironmentDir) -> String {
    format!("tny-{}", &environment.id().simple().to_string()[16..])
}

/// Name servers of this machine that environments can reach.
pub(super) fn name_servers() -> Vec<Ipv4Addr> {
    let listed = |path: &str| -> Vec<Ipv4Addr> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().filter_map(|it| it.trim().strip_prefix("nameserver "));
        lines
            .filter_map(|it| it.trim().parse().ok())
            .filter(|it: &Ipv4Addr| !it.is_loopback())
            .collect()
    };
    let direct = listed("/etc/resolv.conf");
    // A resolver on the loopback is systemd's, which names those that it asks.
    if direct.is_empty() { listed("/run/systemd/resolve/resolv.conf") } else { direct }
}

/// Rules that hold for every environment of this machine.
const RULES: &str = include_str!("network.nft");

/// Rules of a machine that forwarded no packets before.
const FOREIGN_RULES: &str = include_str!("network_foreign.nft");

async fn nft(rules: &str) -> Result<()> {
    feed("nft", &["-f", "-"], rules).await.map(|_| ())
}

async fn run(program: &str, arguments: &[&str]) -> Result<String> {
    feed(program, arguments, "").await
}

/// Runs a program of this machine with an input; fails with its error output.
async fn feed(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{program} is not installed"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = tokio::time::timeout(COMMAND_TIMEOUT, child.wait_with_output()).await;
    let output = output.with_context(|| format!("{program} does not end"))??;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
