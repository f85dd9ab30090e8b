//! Ports and URLs of programs.

use std::net::TcpListener;

use anyhow::{Context, Result, bail, ensure};

use super::{Processes, directory::EnvironmentDir};

/// Number of ports tried before a start fails.
const PORT_ATTEMPTS_MAX: usize = 20;

impl Processes {
    /// Reserves a port for a program and publishes it: `preferred` if that is free and not 0.
    pub(super) async fn reserve_port(
        &self,
        environment: &EnvironmentDir,
        preferred: u16,
    ) -> Result<u16> {
        let network = self.sandbox.network.attach(environment).await?;
        let mut port = preferred;
        for _ in 0..PORT_ATTEMPTS_MAX {
            if port == 0 {
                let listener = TcpListener::bind((self.settings.bind, 0));
                port = listener.context("no free port")?.local_addr()?.port();
            }
            if self.sandbox.network.publish(&network, port).await {
                return Ok(port);
            }
            port = 0;
        }
        bail!("no free port found for the environment; try again")
    }

    /// Publishes the port of a program that is started again. After a restart of the machine no port is
    /// published.
    pub(super) async fn publish_port(&self, environment: &EnvironmentDir, port: u16) -> Result<()> {
        let network = self.sandbox.network.attach(environment).await?;
        let is_published = self.sandbox.network.publish(&network, port).await;
        ensure!(
            is_published,
            "another environment has the port {port}; deploy the environment again"
        );
        Ok(())
    }

    /// Releases a port of an environment.
    pub(super) async fn release_port(&self, environment: &EnvironmentDir, port: u16) {
        if port != 0
            && let Ok(network) = self.sandbox.network.attach(environment).await
        {
            self.sandbox.network.unpublish(&network, port).await;
        }
    }

    /// Returns the URL of an environment's program.
    pub(super) async fn url(&self, environment: &EnvironmentDir, port: u16) -> Result<String> {
        let network = self.sandbox.network.attach(environment).await?;
        let authority = self.sandbox.network.url_authority(&network, port, &self.settings.address);
        Ok(format!("http://{authority}"))
    }
}
