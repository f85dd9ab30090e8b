//! Removal of environments, and of what cancelled tasks have left.

use anyhow::Result;
use api::project::{Lease, TaskKind};

use super::{Processes, database::database_name, directory::EnvironmentDir};

impl Processes {
    /// Removes an environment with its files, processes and databases.
    pub(super) async fn destroy_environment(&self, environment: &EnvironmentDir) -> Result<()> {
        let _lock = self.lock(environment).await;
        self.stop_leftovers(environment).await;
        let record = environment.record().await;
        for process in [record.process, record.previous].into_iter().flatten() {
            process.stop().await;
        }
        self.kill_remaining(environment);
        self.release_other_ports(environment, 0).await;
        if let Some(docker) = &self.docker {
            docker.remove_environment(environment.id()).await?;
        }
        environment.remove().await?;
        self.sync_proxy().await;
        // Afterwards, because the routes of the proxy attach environments that exist.
        self.sandbox.network.detach(environment).await;
        if self.databases.exists() {
            let name = database_name(&environment.id().to_string());
            self.databases.remove(&self.sandbox.network, &name).await?;
        }
        Ok(())
    }

    /// Cleans up after a cancelled task.
    pub(super) async fn abandon_task(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
    ) -> Result<()> {
        let _lock = self.lock(environment).await;
        self.stop_leftovers(environment).await;
        if environment.record().await.release != lease.release && !lease.release.is_empty() {
            environment.remove_release(&lease.release).await?;
            self.remove_old_images(environment, &environment.record().await).await;
        }
        if lease.kind() == TaskKind::Clone {
            self.abandon_copy(lease, environment).await?;
        }
        Ok(())
    }
}
