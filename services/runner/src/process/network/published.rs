//! Ports of sandboxed programs that are published on the machine: DNAT by two nftables maps.

use std::net::{IpAddr, Ipv4Addr};

use super::{EnvironmentNetwork, Network};
use crate::{
    process::directory::EnvironmentDir,
    system_program::{nft, run},
};

/// Map of the address at which a runner publishes ports.
struct PortMap {
    name: &'static str,
    /// Address of the machine in the keys of the map; `None`: a key is a port.
    address: Option<Ipv4Addr>,
}

impl PortMap {
    /// Returns the map for the setting `--bind`; `None` if ports are not published.
    fn of(bind: IpAddr) -> Option<Self> {
        let IpAddr::V4(bind) = bind else { return None };
        match bind {
            bind if bind.is_loopback() => None,
            bind if bind.is_unspecified() => {
                Some(Self { name: "published_everywhere", address: None })
            }
            bind => Some(Self { name: "published", address: Some(bind) }),
        }
    }

    fn key(&self, port: u16) -> String {
        match self.address {
            Some(address) => format!("{address} . {port}"),
            None => port.to_string(),
        }
    }

    /// Returns the elements of the map: keys, each with the published address and port.
    async fn elements(&self) -> Vec<(String, String)> {
        let list = ["--numeric", "list", "map", "inet", "tenantry", self.name];
        // Fails only if another program has removed the table: then no port is published.
        elements_of(&run("nft", &list).await.unwrap_or_default())
    }
}

impl Network {
    /// Publishes a program's port on the machine's address. Returns false if another environment has
    /// published the port; publishing it twice for the same environment succeeds.
    pub(in crate::process) async fn publish(
        &self,
        network: &EnvironmentNetwork,
        port: u16,
    ) -> bool {
        let Some(map) = self.port_map() else { return true };
        let element = format!("{} : {} . {port}", map.key(port), network.address);
        nft(&format!("add element inet tenantry {} {{ {element} }}\n", map.name)).await.is_ok()
    }

    /// Removes the published ports of an environment, but for one; 0: all. It reads them from the kernel,
    /// because a runner may have been killed before it recorded one.
    pub(in crate::process) async fn unpublish_others(
        &self,
        environment: &EnvironmentDir,
        kept: u16,
    ) {
        let Some(map) = self.port_map() else { return };
        let Some(network) = self.existing(environment).await else { return };
        let kept = map.key(kept);
        let prefix = format!("{} . ", network.address);
        for (key, target) in map.elements().await {
            if target.starts_with(&prefix) && key != kept {
                let element = format!("{} {{ {key} }}", map.name);
                let _ = nft(&format!("delete element inet tenantry {element}\n")).await;
            }
        }
    }

    /// Returns `host:port` of a program's URL. `public_host` is used unless the program is reachable only
    /// within this machine.
    pub(in crate::process) fn url_authority(
        &self,
        network: &EnvironmentNetwork,
        port: u16,
        public_host: &str,
    ) -> String {
        if self.is_separate() && self.port_map().is_none() {
            format!("{}:{port}", network.address)
        } else {
            format!("{public_host}:{port}")
        }
    }

    fn port_map(&self) -> Option<PortMap> {
        let Self::Namespaces(namespaces) = self else { return None };
        PortMap::of(namespaces.bind)
    }
}

/// Parses the elements in the output of `nft list map`.
fn elements_of(list: &str) -> Vec<(String, String)> {
    let elements = list.split_once("elements = {").and_then(|it| it.1.split_once('}'));
    let elements = elements.map_or("", |it| it.0).split(',');
    let pairs = elements.filter_map(|it| it.trim().split_once(" : "));
    pairs.map(|(key, target)| (key.to_owned(), target.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_maps_are_parsed() {
        let list = "table inet tenantry {\n\tmap published {\n\t\ttype ipv4_addr . inet_service : \
                    ipv4_addr . inet_service\n\t\telements = { 10.0.0.1 . 4000 : 10.213.0.2 . 4000,\n\
                    \t\t\t     10.0.0.1 . 4001 : 10.213.0.20 . 4001 }\n\t}\n}\n";
        let map = PortMap::of("10.0.0.1".parse().unwrap()).unwrap();
        let expected = [4000, 4001].map(|it| map.key(it));
        let elements = elements_of(list);
        assert_eq!(elements.iter().map(|it| it.0.clone()).collect::<Vec<_>>(), expected);
        assert_eq!(elements[1].1, "10.213.0.20 . 4001");
        assert!(elements_of("table inet tenantry {\n\tmap published {\n\t}\n}\n").is_empty());
        assert_eq!(PortMap::of("0.0.0.0".parse().unwrap()).unwrap().key(4000), "4000");
    }
}
