//! Start of a program beside the one that serves, which it replaces when it is healthy: deployments, and
//! restarts behind the proxy.

use anyhow::Result;
use api::project::Lease;

use super::{
    DEPLOY_STEPS, Processes,
    directory::EnvironmentDir,
    launch::{Launch, log_memory_limit},
    manifest::Manifest,
    process_tree::ProcessTree,
    record::EnvironmentRecord,
};
use crate::driver::{ProgressReporter, TaskOutcome};

impl Processes {
    /// Deploys a version to a locked environment.
    pub(super) async fn deploy_version(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        report: &ProgressReporter,
    ) -> Result<TaskOutcome> {
        environment.prepare(&self.sandbox.accounts).await?;
        self.store_hostname(environment, lease).await?;
        let lease = &self.provision_addons(lease, report).await?;
        let mut record = environment.record().await;
        if record.release == lease.release && record.is_running() {
            // A previous runner completed the deployment, but crashed before it reported the result.
            report.step("done", DEPLOY_STEPS, DEPLOY_STEPS, "already running").await;
            self.sync_proxy().await;
            let url = self.url(environment, record.port, &lease.server_address).await?;
            return Ok(TaskOutcome { commit: record.commit, url, ..TaskOutcome::default() });
        }
        let prepared = async {
            let checkout = self.fetch(lease, environment, &record, report).await?;
            let commit_info = self.commit_info(lease, environment).await;
            let manifest = self.build(lease, environment, &checkout, report).await?;
            Ok::<_, anyhow::Error>((checkout, commit_info, manifest))
        };
        let prepared = prepared.await;
        if prepared.is_err() && !record.releases.contains(&lease.release) {
            // The files of a version that failed to build are not needed, and count towards the disk limit.
            environment.remove_release(&lease.release).await?;
        }
        let (checkout, commit_info, manifest) = prepared?;
        let mut launch = Launch::new(lease, &lease.release, &manifest);
        if checkout.is_built {
            self.restore_configuration(lease, environment, &mut launch, report).await;
        }
        let port = self.reserve_port(environment, None).await?;
        let line = format!("starting `{}` on port {port}", launch.command);
        report.step("start", 3, DEPLOY_STEPS, line).await;
        let process = self.start_beside(environment, &launch, port, report).await?;
        report.step("health", 4, DEPLOY_STEPS, "health check passed").await;
        report.mark_irreversible();
        let previous_port = record.port;
        record.switch_release(process, port, &lease.release, &checkout.commit);
        environment.write_release_launch(&launch).await?;
        self.switch_program(environment, &mut record, previous_port, report).await?;
        environment.remove_old_releases(&record).await?;
        let url = self.url(environment, port, &lease.server_address).await?;
        report.step("done", DEPLOY_STEPS, DEPLOY_STEPS, format!("running at {url}")).await;
        Ok(TaskOutcome { commit: checkout.commit, commit_info, url, observed: None })
    }

    /// Starts the deployed version again while the running program serves, which ends when the new one is
    /// healthy.
    pub(super) async fn restart_beside(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        record: &mut EnvironmentRecord,
        report: &ProgressReporter,
    ) -> Result<TaskOutcome> {
        report.step("start", 1, 2, "starting").await;
        environment.stop_leftovers().await;
        self.store_hostname(environment, lease).await?;
        let lease = &self.provision_addons(lease, report).await?;
        let manifest = Manifest::read(environment, &record.release)?;
        let launch = Launch::new(lease, &record.release, &manifest);
        let port = self.reserve_port(environment, None).await?;
        let process = self.start_beside(environment, &launch, port, report).await?;
        report.mark_irreversible();
        let previous_port = record.port;
        record.switch_process(process, port);
        environment.write_release_launch(&launch).await?;
        self.switch_program(environment, record, previous_port, report).await?;
        let url = self.url(environment, port, &lease.server_address).await?;
        report.step("done", 2, 2, format!("running at {url}")).await;
        Ok(TaskOutcome { commit: record.commit.clone(), url, ..TaskOutcome::default() })
    }

    /// Starts a program on a reserved port, which is released if that fails.
    async fn start_beside(
        &self,
        environment: &EnvironmentDir,
        launch: &Launch,
        port: u16,
        report: &ProgressReporter,
    ) -> Result<ProcessTree> {
        let started = self.start_program(environment, launch, port).await;
        if let Err(error) = &started {
            log_memory_limit(error, report).await;
            self.release_port(environment, port).await;
        }
        started
    }
}
