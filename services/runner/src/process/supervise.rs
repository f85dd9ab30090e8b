//! Supervision of environments: restarts after crashes, disk limits, log rotation, and reports.

use std::{net::SocketAddr, time::Duration};

use api::project::{EnvironmentReport, Observed};
use futures::{StreamExt, stream};
use primitives::foreign_text::clean_block;
use tokio::fs;

use super::{
    Processes,
    directory::EnvironmentDir,
    http,
    log::ProgramLog,
    process_table::ProcessTable,
    process_tree::ProcessTree,
    record::{DesiredState, EnvironmentRecord},
    usage,
};

/// Maximum of [`EnvironmentRecord::restarts`]. A program that ends again is not restarted.
const RESTARTS_MAX: u32 = 3;

/// Time within which a restarted program must be healthy.
const RESTART_TIMEOUT: Duration = Duration::from_secs(20);

/// Number of environments checked concurrently.
const CONCURRENCY: usize = 16;

/// Maximum length of the failure text in a report, in bytes: less than the 2,000 bytes to which the project
/// service truncates it.
const DETAIL_BYTES_MAX: usize = 1_900;

impl Processes {
    /// Restarts programs that ended unexpectedly, stops those that exceed their disk limit, and rotates logs.
    pub(super) async fn reconcile_all(&self) {
        let environments = self.list_environments().await;
        let reconciled: Vec<_> = environments.iter().map(|it| self.reconcile(it)).collect();
        stream::iter(reconciled).buffer_unordered(CONCURRENCY).collect::<Vec<()>>().await;
    }

    /// Measures the files of every environment.
    pub(super) async fn measure_all(&self) {
        let environments = self.list_environments().await;
        let ids: Vec<_> = environments.iter().map(EnvironmentDir::id).collect();
        self.usage.retain_only(&ids);
        for environment in environments {
            self.usage.refresh_disk(environment.id(), environment.path()).await;
        }
    }

    /// Returns a report about every environment.
    pub(super) async fn reports_of_all(&self) -> Vec<EnvironmentReport> {
        let environments = self.list_environments().await;
        let table = tokio::task::spawn_blocking(ProcessTable::read).await;
        // Fails only if the runtime is shutting down.
        let table = &table.unwrap_or_else(|_| ProcessTable::read());
        let reports: Vec<_> = environments.iter().map(|it| self.report(it, table)).collect();
        stream::iter(reports).buffer_unordered(CONCURRENCY).collect().await
    }

    /// Returns the environments that have a directory on this machine.
    async fn list_environments(&self) -> Vec<EnvironmentDir> {
        let root = &self.settings.data_dir;
        let mut environments = vec![];
        let Ok(mut entries) = fs::read_dir(root).await else { return environments };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Other files and directories of the runner have names that are not ids.
            environments.extend(EnvironmentDir::new(root, &name));
        }
        environments
    }

    /// Brings one environment into its desired state, unless a task has locked it.
    async fn reconcile(&self, environment: &EnvironmentDir) {
        let directory = environment.clone();
        let rotated = tokio::task::spawn_blocking(move || ProgramLog::rotate(&directory)).await;
        // Fails to join only if the runtime is shutting down.
        if let Ok(Err(error)) = rotated {
            tracing::warn!(environment = %environment.id(), %error, "log rotation failed");
        }
        let record = environment.record().await;
        if record.desired != DesiredState::Running || !record.failure.is_empty() {
            return;
        }
        let Some(_lock) = self.try_lock(environment) else { return };
        // Read again, because a task may have changed the record before it was locked.
        let record = environment.record().await;
        let is_running = record.is_running();
        let result = if is_running && self.is_over_disk_limit(environment).await {
            self.stop_over_limit(environment, record).await
        } else if is_running {
            self.decrement_restarts(environment, record).await
        } else if record.desired == DesiredState::Running {
            self.restart(environment, record).await
        } else {
            Ok(())
        };
        if let Err(error) = result {
            let error = format!("{error:#}");
            tracing::warn!(environment = %environment.id(), error, "reconciling an environment failed");
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
        tracing::warn!(environment = %environment.id(), "disk limit exceeded; stopping the environment");
        "stopped: the files of the environment exceed its disk limit, or are too many to count; remove \
         files and start the environment again"
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
        let launch = environment.launch().await;
        tracing::warn!(environment = %environment.id(), restarts, "program ended unexpectedly");
        if restarts > RESTARTS_MAX {
            let log = ProgramLog::last(environment, &record.release).zip(launch);
            let output = log.map(|(log, launch)| log.quote(&launch.secrets()));
            let output = output.unwrap_or_default();
            record.failure = format!(
                "the program was restarted {RESTARTS_MAX} times in a row and ended again; {output}"
            );
        } else if let Some(launch) = launch {
            // Kills processes that the ended program has started, including those outside of its tree.
            record.process.iter().for_each(ProcessTree::kill);
            self.sandbox.accounts.kill_all(environment);
            let started = async {
                self.publish_port(environment, record.port).await?;
                self.start_program(environment, &launch, record.port, RESTART_TIMEOUT).await
            };
            match started.await {
                Ok(process) => {
                    let port = record.port;
                    record.set_running(process, port);
                    environment.write_record(&record).await?;
                    environment.clear_starting_process().await;
                    return Ok(());
                }
                // Retried by the next call.
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::info!(environment = %environment.id(), error, "restart failed");
                }
            }
        } else {
            "the launch parameters are missing; deploy the environment again"
                .clone_into(&mut record.failure);
        }
        environment.write_record(&record).await
    }

    /// Reduces the number of restarts by one if the program is healthy.
    async fn decrement_restarts(
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
        let usage = self.usage.usage(environment.id(), &rows);
        let observed = match record.observed() {
            // Not reported as failed before the last restart has failed.
            Observed::Failed if record.failure.is_empty() => Observed::Running,
            other => other,
        };
        let status =
            if record.is_running() { self.http_status(environment, &record).await } else { None };
        EnvironmentReport {
            environment_id: environment.id().to_string(),
            observed: observed.into(),
            http_ok: status.is_some_and(http::is_healthy),
            cpu_cores: usage.cpu_cores,
            memory_bytes: usage.memory_bytes,
            disk_bytes: usage.disk.bytes,
            process_count: usage.processes,
            release: record.release,
            detail: clean_block(&record.failure, DETAIL_BYTES_MAX),
        }
    }
}
