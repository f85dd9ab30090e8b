//! Supervision of what should run: restarts after a crash, disk limits, logs, and reports.

use std::{net::SocketAddr, time::Duration};

use api::project::{EnvironmentReport, Observed};
use futures::{StreamExt, stream};
use tokio::fs;

use super::{
    Processes,
    directory::EnvironmentDir,
    http,
    process_table::ProcessTable,
    process_tree::ProcessTree,
    record::{DesiredState, EnvironmentRecord},
    usage,
};
use crate::text::clean;

/// Restarts in a row, after which a program is given up.
const RESTARTS_MAX: u32 = 3;

/// Time for a program that is restarted until it serves.
const RESTART_TIMEOUT: Duration = Duration::from_secs(20);

/// Environments that are looked at side by side.
const CONCURRENCY: usize = 16;

/// Bytes of the text in a report.
const DETAIL_BYTES_MAX: usize = 1_900;

impl Processes {
    /// Restarts what ended by itself, stops what takes too much disk, and rotates logs.
    pub(super) async fn reconcile_all(&self) {
        let environments = self.environments_here().await;
        let reconciled: Vec<_> = environments.iter().map(|it| self.reconcile(it)).collect();
        stream::iter(reconciled).buffer_unordered(CONCURRENCY).collect::<Vec<()>>().await;
    }

    /// Measures the files of every environment.
    pub(super) async fn measure_all(&self) {
        let environments = self.environments_here().await;
        let ids: Vec<_> = environments.iter().map(EnvironmentDir::id).collect();
        self.usage.retain_only(&ids);
        for environment in environments {
            self.usage.refresh_disk(environment.id(), environment.path()).await;
        }
    }

    /// A report about every environment.
    pub(super) async fn reports_of_all(&self) -> Vec<EnvironmentReport> {
        let environments = self.environments_here().await;
        let table = tokio::task::spawn_blocking(ProcessTable::read).await;
        let table = &table.unwrap_or_else(|_| ProcessTable::read());
        let reports: Vec<_> = environments.iter().map(|it| self.report(it, table)).collect();
        stream::iter(reports).buffer_unordered(CONCURRENCY).collect().await
    }

    async fn environments_here(&self) -> Vec<EnvironmentDir> {
        let root = &self.settings.data_dir;
        let mut environments = vec![];
        let Ok(mut entries) = fs::read_dir(root).await else { return environments };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Other folders of the runner lie beside them.
            environments.extend(EnvironmentDir::new(root, &name));
        }
        environments
    }

    async fn reconcile(&self, environment: &EnvironmentDir) {
        if let Err(error) = environment.rotate_log().await {
            tracing::warn!(environment = %environment.id(), %error, "a log cannot be rotated");
        }
        let record = environment.record().await;
        if record.desired != DesiredState::Running || !record.failure.is_empty() {
            return;
        }
        let Some(_held) = self.try_hold(environment) else { return };
        // The record may have changed until the environment was held.
        let record = environment.record().await;
        let is_running = record.is_running();
        let result = if is_running && self.is_over_disk_limit(environment).await {
            self.stop_over_limit(environment, record).await
        } else if is_running {
            self.reset_restarts(environment, record).await
        } else if record.desired == DesiredState::Running {
            self.restart(environment, record).await
        } else {
            Ok(())
        };
        if let Err(error) = result {
            let error = format!("{error:#}");
            tracing::warn!(environment = %environment.id(), error, "an environment is not as it should be");
        }
    }

    async fn is_over_disk_limit(&self, environment: &EnvironmentDir) -> bool {
        let disk = self.usage.disk(environment.id());
        let launch = environment.launch().await;
        launch.is_some_and(|it| disk.exceeds(it.limits))
    }

    async fn stop_over_limit(
        &self,
        environment: &EnvironmentDir,
        mut record: EnvironmentRecord,
    ) -> anyhow::Result<()> {
        tracing::warn!(environment = %environment.id(), "an environment takes more disk than it may");
        "it was stopped, because its files take more than its disk limit, or are too many to count; \
         remove some and start it again"
            .clone_into(&mut record.failure);
        environment.write_record(&record).await?;
        if let Some(process) = &record.process {
            process.stop().await;
        }
        Ok(())
    }

    async fn restart(
        &self,
        environment: &EnvironmentDir,
        mut record: EnvironmentRecord,
    ) -> anyhow::Result<()> {
        record.restarts += 1;
        let restarts = record.restarts;
        let output = environment.last_lines().await;
        tracing::warn!(environment = %environment.id(), restarts, "a program ended by itself");
        if restarts > RESTARTS_MAX {
            record.failure = format!("it ended {RESTARTS_MAX} times in a row; {output}");
        } else if let Some(launch) = environment.launch().await {
            // Nothing of the run before may be left, wherever it has hidden.
            record.process.iter().for_each(ProcessTree::kill);
            self.sandbox.accounts.kill_all(environment);
            match self.serve(environment, &launch, record.port, RESTART_TIMEOUT).await {
                Ok(process) => {
                    let port = record.port;
                    record.set_running(process, port);
                    environment.write_record(&record).await?;
                    environment.clear_starting().await;
                    return Ok(());
                }
                // The next look tries again.
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::info!(environment = %environment.id(), error, "a restart failed");
                }
            }
        } else {
            "the launch record is missing; deploy again".clone_into(&mut record.failure);
        }
        environment.write_record(&record).await
    }

    /// Forgets one restart for each look at which the program serves.
    async fn reset_restarts(
        &self,
        environment: &EnvironmentDir,
        mut record: EnvironmentRecord,
    ) -> anyhow::Result<()> {
        if record.restarts == 0 || self.http_status(environment, &record).await.is_none() {
            return Ok(());
        }
        record.restarts -= 1;
        environment.write_record(&record).await
    }

    async fn http_status(
        &self,
        environment: &EnvironmentDir,
        record: &EnvironmentRecord,
    ) -> Option<u16> {
        let network = self.sandbox.network.attach(environment).await.ok()?;
        let path = environment.launch().await.map_or_else(|| "/".to_owned(), |it| it.health);
        http::get_status(SocketAddr::new(network.address, record.port), &path).await
    }

    async fn report(
        &self,
        environment: &EnvironmentDir,
        table: &ProcessTable,
    ) -> EnvironmentReport {
        let record = environment.record().await;
        let root = record.process.as_ref().map(ProcessTree::pid);
        let account = self.sandbox.accounts.get(environment);
        let rows = usage::processes_of(table, account, root);
        let used = self.usage.usage(environment.id(), &rows);
        let observed = match record.observed() {
            // The next look restarts it.
            Observed::Failed if record.failure.is_empty() => Observed::Running,
            other => other,
        };
        let status =
            if record.is_running() { self.http_status(environment, &record).await } else { None };
        EnvironmentReport {
            environment_id: environment.id().to_string(),
            observed: observed.into(),
            http_ok: status.is_some_and(|it| it < 500),
            cpu_cores: used.cpu_cores,
            memory_bytes: used.memory_bytes,
            disk_bytes: used.disk.bytes,
            process_count: used.processes,
            release: record.release,
            detail: clean(&record.failure, DETAIL_BYTES_MAX),
        }
    }
}
