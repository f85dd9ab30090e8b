//! The network of a server: a namespace with a link to this machine, which can be cut.

use std::{net::Ipv4Addr, process::Command};

/// Addresses of the link: this machine and the server. From the network of benchmarks (RFC 2544), and in no
/// network that another test uses.
const MACHINE: &str = "198.18.77.1";
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 2);

const NAMESPACE: &str = "tny-test-server";

const LINK: &str = "tnt-server";

/// A network namespace; removed when dropped. One test at a time can have it.
pub(crate) struct ServerNetwork {
    /// Name in `/run/netns`.
    namespace: &'static str,
    /// Interface of this machine.
    link: &'static str,
    address: Ipv4Addr,
}

impl ServerNetwork {
    /// Creates the namespace. In it, `127.0.0.1` with this port is the gateway, a port of this machine: a
    /// runner connects without TLS to a loopback address only.
    pub(crate) fn new(port: u16, gateway: u16) -> Self {
        let _ = Command::new("ip").args(["netns", "delete", NAMESPACE]).output();
        let network = Self { namespace: NAMESPACE, link: LINK, address: SERVER };
        ip(&format!("netns add {NAMESPACE}"));
        ip(&format!("link add {LINK} type veth peer name eth0 netns {NAMESPACE}"));
        ip(&format!("address add {MACHINE}/24 dev {LINK}"));
        ip(&format!("link set {LINK} up"));
        for command in [
            "link set lo up".to_owned(),
            format!("address add {SERVER}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {MACHINE}"),
        ] {
            ip(&format!("-n {NAMESPACE} {command}"));
        }
        let rules = format!(
            "add table ip link; \
             add chain ip link output {{ type nat hook output priority -100; }}; \
             add chain ip link postrouting {{ type nat hook postrouting priority 100; }}; \
             add rule ip link output ip daddr 127.0.0.1 tcp dport {port} dnat to {MACHINE}:{gateway}; \
             add rule ip link postrouting ip saddr 127.0.0.1 oifname eth0 masquerade"
        );
        network.run(&["nft", &rules]);
        network.run(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet"]);
        network
    }

    pub(crate) fn namespace(&self) -> &'static str {
        self.namespace
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Takes the link down: no packet arrives, and no connection is closed.
    pub(crate) fn cut(&self) {
        ip(&format!("link set {} down", self.link));
    }

    pub(crate) fn restore(&self) {
        ip(&format!("link set {} up", self.link));
    }

    /// Runs a program in the namespace; returns its output.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let namespace = format!("--net=/run/netns/{}", self.namespace);
        let output = Command::new("nsenter").arg(namespace).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for ServerNetwork {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", self.namespace]).output();
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
