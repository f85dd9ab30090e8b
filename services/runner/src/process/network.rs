//! Networks of environments: one network namespace per environment, connected to a bridge of the machine.
//! Programs in it reach the internet, name servers and the database server of environments, but not the
//! machine, other environments, or private networks. Configured with `ip` (iproute2) and `nft` (nftables).

mod published;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use ipnet::Ipv4Net;
use rustix::process::geteuid;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::directory::EnvironmentDir;
use crate::{
    settings::NetworkSettings,
    system_program::{nft, run, run_with_input},
};

/// Name of the bridge, shared by all runners of this machine.
const BRIDGE: &str = "tny0";

/// Network of one environment.
#[derive(Clone, Debug)]
pub(super) struct EnvironmentNetwork {
    /// Name of the namespace in `/run/netns`; `None`: the machine's own network.
    pub(super) namespace: Option<String>,
    /// IP address that its programs listen on.
    pub(super) listen: IpAddr,
    /// IP address at which this machine reaches its programs.
    pub(super) address: IpAddr,
}

impl EnvironmentNetwork {
    /// The network of this machine, for a command that listens on no port.
    pub(super) fn of_machine() -> Self {
        let loopback = Ipv4Addr::LOCALHOST.into();
        Self { namespace: None, listen: loopback, address: loopback }
    }
}

/// Kind of network that environments get on this machine.
pub(super) enum Network {
    /// One namespace per environment.
    Namespaces(Box<Namespaces>),
    /// The machine's network: no isolation, programs can reach services on the loopback interface.
    Host { bind: IpAddr },
}

/// Namespaces connected to the bridge.
pub(super) struct Namespaces {
    settings: NetworkSettings,
    /// IP address at which programs are published; loopback: only this machine reaches them.
    bind: IpAddr,
    /// Addresses of existing namespaces; locked while one is created.
    addresses: Mutex<HashMap<Uuid, Ipv4Addr>>,
}

impl Network {
    /// Returns namespaces if this process can create the bridge and its rules, otherwise the machine's
    /// network.
    pub(super) async fn probe(settings: &NetworkSettings, bind: IpAddr) -> Self {
        if !geteuid().is_root() {
            return Self::Host { bind };
        }
        let namespaces =
            Namespaces { settings: settings.clone(), bind, addresses: Mutex::default() };
        match namespaces.set_up().await {
            Ok(()) => Self::Namespaces(Box::new(namespaces)),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(
                    error,
                    "network isolation is not available; environments share the network of this machine"
                );
                Self::Host { bind }
            }
        }
    }

    /// Returns true if each environment has its own network.
    pub(super) fn is_separate(&self) -> bool {
        matches!(self, Self::Namespaces(_))
    }

    /// Returns the IP address at which environments reach services of this machine.
    pub(super) fn service_address(&self) -> IpAddr {
        match self {
            Self::Namespaces(it) => it.gateway().into(),
            Self::Host { .. } => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// Returns the network (CIDR) from which environments connect to services.
    pub(super) fn client_addresses(&self) -> String {
        match self {
            Self::Namespaces(it) => it.settings.addresses.to_string(),
            Self::Host { .. } => "127.0.0.1/32".to_owned(),
        }
    }

    /// Allows connections from environments to a service.
    pub(super) async fn allow_service(&self, service: SocketAddr) -> Result<()> {
        let Self::Namespaces(_) = self else { return Ok(()) };
        let IpAddr::V4(address) = service.ip() else { bail!("{service} must be an IPv4 address") };
        ensure!(
            !address.is_loopback(),
            "environments cannot reach the loopback address {address}; use another address"
        );
        let element = format!("{address} . {}", service.port());
        nft(&format!("add element inet tenantry services {{ {element} }}\n")).await
    }

    /// Returns the network of an environment, creating it if necessary.
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

    /// Returns the network of an environment; `None` if there is none.
    async fn existing(&self, environment: &EnvironmentDir) -> Option<EnvironmentNetwork> {
        let exists = Path::new("/run/netns").join(namespace_name(environment)).exists();
        if exists { self.attach(environment).await.ok() } else { None }
    }
}

impl Namespaces {
    /// Returns the bridge's address: the first of the network.
    fn gateway(&self) -> Ipv4Addr {
        self.address_of(1)
    }

    /// Returns the address at an index: its distance from the first address of the network.
    fn address_of(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.settings.addresses.network().to_bits() + index)
    }

    /// Prefix length of the bridge's address: that of the lower half of the network if the upper one is for
    /// containers. Podman creates no network whose addresses are those of another interface.
    fn bridge_prefix(&self) -> u8 {
        let prefix = self.settings.addresses.prefix_len();
        if self.has_containers() { prefix + 1 } else { prefix }
    }

    /// Returns true if the network is large enough for containers.
    fn has_containers(&self) -> bool {
        self.settings.addresses.prefix_len() <= 26
    }

    async fn set_up(&self) -> Result<()> {
        if run("ip", &["link", "show", BRIDGE]).await.is_err() {
            // Fails if another runner of this machine creates it at the same time.
            let _ = run("ip", &["link", "add", BRIDGE, "type", "bridge"]).await;
        }
        let gateway = format!("{}/{}", self.gateway(), self.bridge_prefix());
        run("ip", &["address", "replace", &gateway, "dev", BRIDGE]).await?;
        run("ip", &["link", "set", BRIDGE, "up"]).await?;
        let ip_forward = std::fs::read_to_string(IP_FORWARD).unwrap_or_default();
        let mut rules = self.rules();
        if ip_forward.trim() == "0" {
            // This runner enables forwarding, so it blocks forwarding of all traffic but the environments'.
            rules.push_str(FOREIGN_RULES);
        }
        nft(&rules).await?;
        std::fs::write(IP_FORWARD, "1").context("cannot enable IP forwarding")
    }

    fn rules(&self) -> String {
        let add_elements = |set: &str, elements: Vec<String>| match elements.as_slice() {
            [] => String::new(),
            _ => format!("add element inet tenantry {set} {{ {} }}\n", elements.join(", ")),
        };
        let resolvers = name_servers().iter().map(ToString::to_string).collect();
        let reachable = self.settings.reachable.iter().map(ToString::to_string).collect();
        let networks = add_elements("networks", vec![self.settings.addresses.trunc().to_string()]);
        let resolvers = add_elements("resolvers", resolvers);
        let reachable = add_elements("reachable_networks", reachable);
        [RULES, &networks, &resolvers, &reachable].concat()
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
                    let created = self.create(environment, &namespace).await;
                    created.context("cannot create the environment's network")?
                };
                let address = self.address_of(index);
                addresses.insert(environment.id(), address);
                address
            }
        };
        Ok(EnvironmentNetwork {
            namespace: Some(namespace),
            listen: Ipv4Addr::UNSPECIFIED.into(),
            address: address.into(),
        })
    }

    /// Returns the address index of a namespace; `None` if it does not exist or is incomplete.
    async fn index_of(&self, namespace: &str) -> Option<u32> {
        let arguments = ["-n", namespace, "-4", "-o", "address", "show", "dev", "eth0"];
        let text = run("ip", &arguments).await.ok()?;
        let address: Ipv4Net = text.split_whitespace().nth(3)?.parse().ok()?;
        address.addr().to_bits().checked_sub(self.settings.addresses.network().to_bits())
    }

    /// Creates a namespace and returns its address index. The name of its interface on the bridge contains
    /// the index, so the kernel guarantees that no two namespaces get the same one, even from different
    /// runners.
    async fn create(&self, environment: &EnvironmentDir, namespace: &str) -> Result<u32> {
        let _ = run("ip", &["netns", "delete", namespace]).await;
        run("ip", &["netns", "add", namespace]).await?;
        let count = 1_u32 << (32 - u32::from(self.settings.addresses.prefix_len()));
        let hash = u32::try_from(environment.id().as_u128() & 0xffff_ffff).unwrap_or(0);
        // All addresses but three: network, gateway and broadcast. The upper half is for containers.
        let usable = if self.has_containers() { count / 2 } else { count }
            .checked_sub(3)
            .filter(|it| *it > 0)
            .context("the network for environments (--network) is too small")?;
        for step in 0..usable {
            // Index 0 is the network and index 1 the gateway.
            let index = 2 + (hash % usable + step) % usable;
            let interface = format!("tny{index}");
            #[rustfmt::skip]
            let add_pair = [
                "link", "add", &interface, "type", "veth",
                "peer", "name", "eth0", "netns", namespace,
            ];
            match run("ip", &add_pair).await {
                Err(error) if error.to_string().contains("File exists") => continue,
                other => other?,
            };
            self.connect(namespace, &interface, index).await?;
            return Ok(index);
        }
        bail!("all addresses of {} are in use", self.settings.addresses)
    }

    /// Connects a namespace to the bridge and configures its addresses and default route.
    async fn connect(&self, namespace: &str, interface: &str, index: u32) -> Result<()> {
        let prefix = self.settings.addresses.prefix_len();
        let machine_commands = format!(
            "link set {interface} master {BRIDGE} up\n\
             link set {interface} type bridge_slave isolated on\n"
        );
        let namespace_commands = format!(
            "link set lo up\naddress add {}/{prefix} dev eth0\nlink set eth0 up\n\
             route add default via {}\n",
            self.address_of(index),
            self.gateway(),
        );
        run_with_input("ip", &["-batch", "-"], &machine_commands).await?;
        run_with_input("ip", &["-n", namespace, "-batch", "-"], &namespace_commands).await?;
        Ok(())
    }
}

/// Returns the name of an environment's namespace: the random half of its id, which is short and unique.
fn namespace_name(environment: &EnvironmentDir) -> String {
    format!("tny-{}", &environment.id().simple().to_string()[16..])
}

/// Returns the name servers of this machine that environments can reach.
pub(super) fn name_servers() -> Vec<Ipv4Addr> {
    let read = |path: &str| -> Vec<Ipv4Addr> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().filter_map(|it| it.trim().strip_prefix("nameserver "));
        lines
            .filter_map(|it| it.trim().parse().ok())
            .filter(|it: &Ipv4Addr| !it.is_loopback())
            .collect()
    };
    let servers = read("/etc/resolv.conf");
    // With systemd-resolved, that file names a loopback address; the upstream servers are in another file.
    if servers.is_empty() { read("/run/systemd/resolve/resolv.conf") } else { servers }
}

/// Kernel setting that enables IP forwarding.
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Rules for all environments of this machine.
const RULES: &str = include_str!("network.nft");

/// Rules for a machine on which IP forwarding was disabled: other traffic is not forwarded.
const FOREIGN_RULES: &str = include_str!("network_foreign.nft");
