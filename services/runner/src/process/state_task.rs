//! Tasks that change or observe the state of a deployed version.

use anyhow::{Context, Result};
use api::project::{Lease, Observed};

use super::{Processes, process_tree::ProcessTree, record::DesiredState};
use crate::driver::{ProgressReporter, TaskOutcome};

impl Processes {
    pub(super) async fn start_version(
        &self,
        lease: &Lease,
        report: &ProgressReporter,
    ) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _lock = self.lock(&environment).await;
        let mut record = environment.record().await;
        report.step("start", 1, 2, "starting").await;
        self.store_hostname(&environment, lease).await?;
        let url = if record.is_running() {
            self.url(&environment, &record, &lease.server_address).await?
        } else {
            let lease = &self.provision_addons(lease, report).await?;
            self.start_release(lease, &environment, &mut record, report).await?
        };
        report.step("done", 2, 2, format!("running at {url}")).await;
        Ok(TaskOutcome { commit: record.commit, url, ..TaskOutcome::default() })
    }

    pub(super) async fn stop_version(
        &self,
        lease: &Lease,
        report: &ProgressReporter,
    ) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _lock = self.lock(&environment).await;
        report.step("stop", 1, 2, "stopping").await;
        self.stop_leftovers(&environment).await;
        let mut record = environment.record().await;
        let process = record.set_stopped();
        // Written before the process ends, so that supervision does not restart it.
        environment.write_record(&record).await?;
        self.store_hostname(&environment, lease).await?;
        self.sync_proxy().await;
        if let Some(process) = process {
            process.stop().await;
        }
        self.kill_remaining(&environment);
        environment.remove_other_sandboxes(&record).await?;
        self.remove_other_containers(&environment, &record).await;
        self.release_other_ports(&environment, 0).await;
        Ok(TaskOutcome { commit: record.commit, ..TaskOutcome::default() })
    }

    pub(super) async fn pause_version(&self, lease: &Lease) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _lock = self.lock(&environment).await;
        let mut record = environment.record().await;
        let process = record.process.clone().filter(ProcessTree::is_alive);
        let process = process.context("the environment is not running, so it cannot be paused")?;
        record.desired = DesiredState::Paused;
        environment.write_record(&record).await?;
        self.store_hostname(&environment, lease).await?;
        self.sync_proxy().await;
        process.freeze();
        Ok(TaskOutcome::default())
    }

    pub(super) async fn resume_version(
        &self,
        lease: &Lease,
        report: &ProgressReporter,
    ) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        {
            let _lock = self.lock(&environment).await;
            let mut record = environment.record().await;
            if let Some(process) = record.process.clone().filter(ProcessTree::is_alive) {
                process.thaw();
                record.desired = DesiredState::Running;
                environment.write_record(&record).await?;
                self.store_hostname(&environment, lease).await?;
                self.sync_proxy().await;
                let url = self.url(&environment, &record, &lease.server_address).await?;
                return Ok(TaskOutcome { url, ..TaskOutcome::default() });
            }
        }
        // The frozen process ended, for example with a restart of the machine. Its data is kept.
        self.start_version(lease, report).await
    }

    pub(super) async fn observe_version(
        &self,
        lease: &Lease,
        report: &ProgressReporter,
    ) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _lock = self.lock(&environment).await;
        let record = environment.record().await;
        let observed = record.observed();
        report.log(vec![format!("actual state: {}", observed.as_str_name())]).await;
        let url = if observed == Observed::Running {
            self.url(&environment, &record, &lease.server_address).await?
        } else {
            String::new()
        };
        let observed = Some(observed);
        Ok(TaskOutcome { commit: record.commit, url, observed, ..TaskOutcome::default() })
    }
}
