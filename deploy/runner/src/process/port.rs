//! Ports of programs, and the URLs at which they are reached.

use std::net::TcpListener;

use anyhow::{Context, Result, bail};

use super::{Processes, directory::EnvironmentDir};

/// Ports that are tried for a program.
const PORT_TRIES: usize = 20;

impl Processes {
    /// A port for a program, published for its environment: the wanted one if it is free, unless it is 0.
    pub(super) async fn reserve_port(
        &self,
        environment: &EnvironmentDir,
        wanted: u16,
    ) -> Result<u16> {
        let network = self.sandbox.network.attach(environment).await?;
        let mut port = wanted;
        for _ in 0..PORT_TRIES {
            if port == 0 {
                let listener = TcpListener::bind((self.settings.bind, 0));
                port = listener.context("no port is free")?.local_addr()?.port();
            }
            if self.sandbox.network.publish(&network, port).await {
                return Ok(port);
            }
            port = 0;
        }
        bail!("no port is free for the environment; try again")
    }

    /// Takes a port of an environment back.
    pub(super) async fn release_port(&self, environment: &EnvironmentDir, port: u16) {
        if port != 0
            && let Ok(network) = self.sandbox.network.attach(environment).await
        {
            self.sandbox.network.unpublish(&network, port).await;
        }
    }

    /// The URL of an environment.
    pub(super) async fn url(&self, environment: &EnvironmentDir, port: u16) -> Result<String> {
        let network = self.sandbox.network.attach(environment).await?;
        Ok(format!("http://{}", self.sandbox.network.place(&network, port, &self.settings.address)))
    }
}
