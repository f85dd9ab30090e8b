//! Ports and URLs of programs.

use std::{
    net::{Ipv6Addr, SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{net::TcpStream, time::timeout};

use super::{
    Processes, directory::EnvironmentDir, launch::Launch, network::EnvironmentNetwork,
    process_tree::ProcessTree, record::EnvironmentRecord,
};

/// Number of ports tried before a start fails.
const PORT_ATTEMPTS_MAX: usize = 20;

/// Longest wait for a connection to a port that may be in use.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

impl Processes {
    /// Reserves a port for a program and publishes it: `preferred` if no other environment has it, otherwise
    /// an unused one. The port of a container is published by its engine.
    pub(super) async fn reserve_port(
        &self,
        environment: &EnvironmentDir,
        launch: &Launch,
        mut preferred: Option<u16>,
    ) -> Result<u16> {
        if launch.image.is_some() {
            return preferred.map_or_else(|| self.find_unused_port(), Ok);
        }
        let network = self.sandbox.network.attach(environment).await?;
        for _ in 0..PORT_ATTEMPTS_MAX {
            let port = match preferred.take() {
                Some(port) => port,
                None => match self.find_unused_port()? {
                    port if self.is_listening(&network, port).await => continue,
                    port => port,
                },
            };
            if self.sandbox.network.publish(&network, port).await {
                return Ok(port);
            }
        }
        bail!("no free port found for the environment; try again")
    }

    /// Returns a port that no socket of this machine uses, chosen by the kernel.
    fn find_unused_port(&self) -> Result<u16> {
        let listener = TcpListener::bind((self.settings.bind, 0)).context("no free port")?;
        Ok(listener.local_addr()?.port())
    }

    /// Returns true if a program listens on a port in the network of an environment: its running version, or
    /// one that is being replaced. The kernel does not know that when it chooses a port of the machine.
    async fn is_listening(&self, network: &EnvironmentNetwork, port: u16) -> bool {
        if !self.sandbox.network.is_separate() {
            return false;
        }
        let address = SocketAddr::new(network.address, port);
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        connected.is_ok_and(|it| it.is_ok())
    }

    /// Releases the ports of an environment, but for that of its recorded program; 0: all.
    pub(super) async fn release_other_ports(&self, environment: &EnvironmentDir, kept: u16) {
        self.sandbox.network.unpublish_others(environment, kept).await;
    }

    /// Returns the URL of the program of an environment: that of the proxy, or one with the port of the
    /// program. `server_address` is the address of the connected
    /// server, or empty on a shared one.
    pub(super) async fn url(
        &self,
        environment: &EnvironmentDir,
        record: &EnvironmentRecord,
        server_address: &str,
    ) -> Result<String> {
        if let Some(url) = self.proxied_url(environment).await {
            return Ok(url);
        }
        let port = record.port;
        let host = self.public_host(server_address);
        if record.process.as_ref().and_then(ProcessTree::container).is_some() {
            return Ok(format!("http://{host}:{port}"));
        }
        let network = self.sandbox.network.attach(environment).await?;
        let authority = self.sandbox.network.url_authority(&network, port, &host);
        Ok(format!("http://{authority}"))
    }

    /// Returns the host of URLs: the setting of the runner, or the address of a connected server. Programs
    /// that listen on a loopback address are not reached at the server's.
    fn public_host(&self, server_address: &str) -> String {
        let bind = self.settings.bind;
        let host = match &self.settings.address {
            Some(address) => address.clone(),
            None if bind.is_loopback() || server_address.is_empty() => bind.to_string(),
            None => server_address.to_owned(),
        };
        if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host }
    }
}
