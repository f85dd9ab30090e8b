//! Network of an environment: a bridge of its own. Containers in it reach the internet, name servers and the
//! database server of environments, but not the machine, other environments, or private networks. The rules
//! are those of the networks of sandboxes, in chains of their own.

use std::{collections::HashMap, net::Ipv4Addr, path::Path};

use anyhow::{Context, Result, bail, ensure};
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use ipnet::Ipv4Net;
use uuid::Uuid;

use super::{Docker, engine_error, optional};
use crate::{settings::NetworkSettings, system_program::nft};

/// Beginning of the names of bridges. The rules apply to all of them.
const BRIDGE_PREFIX: &str = "tnyd";

/// Prefix length of a network: five containers at the same time.
const PREFIX_LENGTH: u8 = 29;

/// Number of addresses of a network.
const ADDRESSES: u32 = 8;

/// Rules for the networks of containers.
const RULES: &str = include_str!("network.nft");

/// Applies the rules. The table and its sets are created with the networks of sandboxes.
pub(super) async fn apply_rules(settings: &NetworkSettings) -> Result<()> {
    let prefix = settings.addresses.prefix_len();
    ensure!(prefix <= 26, "the network for environments (--network) is too small for containers");
    nft(RULES).await
}

impl Docker {
    /// Returns the name of the network of an environment, which is created if there is none.
    pub(crate) async fn create_network(&self, environment: Uuid) -> Result<String> {
        let _lock = self.network_creation.lock().await;
        let name = network_name(environment);
        if optional(self.client.inspect_network(&name, None).await)?.is_some() {
            return Ok(name);
        }
        // The lower half of the addresses belongs to sandboxes.
        let size = 1_u32 << (32 - u32::from(self.addresses.prefix_len()));
        let first = self.addresses.network().to_bits() + size / 2;
        let count = size / 2 / ADDRESSES;
        let hash = u32::try_from(environment.as_u128() & 0xffff_ffff).unwrap_or(0);
        for step in 0..count {
            let index = (hash % count + step) % count;
            let bridge = format!("{BRIDGE_PREFIX}{index}");
            // The kernel has one interface with a name, also if several engines run on this machine.
            if Path::new("/sys/class/net").join(&bridge).exists() {
                continue;
            }
            let subnet =
                Ipv4Net::new(Ipv4Addr::from_bits(first + index * ADDRESSES), PREFIX_LENGTH)?;
            match self
                .client
                .create_network(self.network_request(environment, &bridge, subnet))
                .await
            {
                Ok(_) => return Ok(name),
                Err(error) => {
                    let error = engine_error(error);
                    let is_taken = format!("{error:#}").contains("overlaps");
                    if !is_taken {
                        return Err(error).context("cannot create the environment's network");
                    }
                }
            }
        }
        bail!("all networks of {} are in use", self.addresses)
    }

    fn network_request(
        &self,
        environment: Uuid,
        bridge: &str,
        subnet: Ipv4Net,
    ) -> NetworkCreateRequest {
        let options = [
            ("com.docker.network.bridge.name", bridge),
            // Two versions of an environment do not reach each other.
            ("com.docker.network.bridge.enable_icc", "false"),
        ];
        let addresses = IpamConfig { subnet: Some(subnet.to_string()), ..IpamConfig::default() };
        NetworkCreateRequest {
            name: network_name(environment),
            driver: Some("bridge".to_owned()),
            enable_ipv6: Some(false),
            ipam: Some(Ipam { config: Some(vec![addresses]), ..Ipam::default() }),
            options: Some(HashMap::from(
                options.map(|(key, value)| (key.to_owned(), value.to_owned())),
            )),
            labels: Some(self.labels(environment)),
            ..NetworkCreateRequest::default()
        }
    }

    pub(super) async fn remove_network(&self, environment: Uuid) -> Result<()> {
        optional(self.client.remove_network(&network_name(environment)).await)?;
        Ok(())
    }
}

pub(super) fn network_name(environment: Uuid) -> String {
    format!("tenantry-{environment}")
}
