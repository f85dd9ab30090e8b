//! Start of a program beside the one that serves, which it replaces when it is healthy: deployments, and
//! restarts behind the proxy.

use anyhow::Result;
use api::project::Lease;

use super::{
    DEPLOY_STEPS, Processes,
    directory::EnvironmentDir,
    launch::{Launch, log_memory_limit},
    process_tree::ProcessTree,
    record::EnvironmentRecord,
    release::Checkout,
};
use crate::driver::{ProgressReporter, TaskOutcome};

impl Processes {
    /// Deploys a version to a locked environment. If that fails, nothing of it is left.
    pub(super) async fn deploy_version(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        report: &ProgressReporter,
    ) -> Result<TaskOutcome> {
        let deployed = self.replace_version(lease, environment, report).await;
        if deployed.is_err() {
            self.stop_leftovers(environment).await;
        }
        deployed
    }

    async fn replace_version(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        report: &ProgressReporter,
    ) -> Result<TaskOutcome> {
        environment.prepare(&self.sandbox.accounts).await?;
        self.stop_leftovers(environment).await;
        self.store_hostname(environment, lease).await?;
        let lease = &self.provision_addons(lease, report).await?;
        let mut record = environment.record().await;
        if record.release == lease.release && record.is_running() {
            // A previous runner completed the deployment, but crashed before it reported the result.
            report.step("done", DEPLOY_STEPS, DEPLOY_STEPS, "already running").await;
            self.sync_proxy().await;
            let url = self.url(environment, &record, &lease.server_address).await?;
            return Ok(TaskOutcome { commit: record.commit, url, ..TaskOutcome::default() });
        }
        let prepared = async {
            let checkout = self.fetch(lease, environment, &record, report).await?;
            let built = self.build(lease, environment, &checkout, report).await?;
            if !checkout.is_built {
                self.prepare_data(lease, environment, &built, report).await?;
            }
            Ok::<_, anyhow::Error>((checkout, built))
        };
        let prepared = prepared.await;
        if prepared.is_err() && !record.releases.contains(&lease.release) {
            // The files of a version that failed to build are not needed, and count towards the disk limit.
            environment.remove_release(&lease.release).await?;
        }
        let (checkout, built) = prepared?;
        let mut launch = Launch::new(lease, &lease.release, &built.manifest, built.image);
        if checkout.is_built {
            self.restore_configuration(lease, environment, &mut launch, report).await;
        }
        let port = self.reserve_port(environment, &launch, None).await?;
        let line = format!("starting {} on port {port}", launch.description());
        report.step("start", 3, DEPLOY_STEPS, line).await;
        let process = self.start_beside(environment, &launch, port, report).await?;
        report.step("health", 4, DEPLOY_STEPS, "health check passed").await;
        report.mark_irreversible();
        let previous_port = record.port;
        record.switch_release(process, port, &lease.release, &checkout.commit);
        environment.write_release_launch(&launch).await?;
        self.switch_program(environment, &mut record, previous_port, report).await?;
        environment.remove_old_releases(&record).await?;
        self.remove_old_images(environment, &record).await;
        let url = self.url(environment, &record, &lease.server_address).await?;
        report.step("done", DEPLOY_STEPS, DEPLOY_STEPS, format!("running at {url}")).await;
        let Checkout { commit, commit_info, .. } = checkout;
        Ok(TaskOutcome { commit, commit_info, url, observed: None })
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
        self.stop_leftovers(environment).await;
        self.store_hostname(environment, lease).await?;
        let lease = &self.provision_addons(lease, report).await?;
        let launch = self.launch_of(lease, environment, &record.release).await?;
        let port = self.reserve_port(environment, &launch, None).await?;
        let process = self.start_beside(environment, &launch, port, report).await?;
        report.mark_irreversible();
        let previous_port = record.port;
        record.switch_process(process, port);
        environment.write_release_launch(&launch).await?;
        self.switch_program(environment, record, previous_port, report).await?;
        let url = self.url(environment, record, &lease.server_address).await?;
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
            self.release_other_ports(environment, environment.record().await.port).await;
        }
        started
    }
}
