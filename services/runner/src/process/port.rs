//! Ports and URLs of programs.

use std::net::{Ipv6Addr, TcpListener};

use anyhow::{Context, Result, bail};

use super::{Processes, directory::EnvironmentDir};

/// Number of ports tried before a start fails.
const PORT_ATTEMPTS_MAX: usize = 20;

impl Processes {
    /// Reserves a port for a program and publishes it: `preferred` if no other environment has it, otherwise
    /// an unused one.
    pub(super) async fn reserve_port(
        &self,
        environment: &EnvironmentDir,
        mut preferred: Option<u16>,
    ) -> Result<u16> {
        let network = self.sandbox.network.attach(environment).await?;
        for _ in 0..PORT_ATTEMPTS_MAX {
            let port = match preferred.take() {
                Some(port) => port,
                None => self.find_unused_port()?,
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

    /// Releases a port of an environment; 0 is no port.
    pub(super) async fn release_port(&self, environment: &EnvironmentDir, port: u16) {
        if port != 0
            && let Ok(network) = self.sandbox.network.attach(environment).await
        {
            self.sandbox.network.unpublish(&network, port).await;
        }
    }

    /// Returns the URL of the program of an environment: that of the proxy, or one with the port of the
    /// program. `server_address` is the address of the connected
    /// server, or empty on a shared one.
    pub(super) async fn url(
        &self,
        environment: &EnvironmentDir,
        port: u16,
        server_address: &str,
    ) -> Result<String> {
        if let Some(url) = self.proxied_url(environment).await {
            return Ok(url);
        }
        let network = self.sandbox.network.attach(environment).await?;
        let host = self.public_host(server_address);
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
