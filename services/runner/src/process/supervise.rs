//! Supervision of environments: restarts after crashes, disk limits, log rotation, and reports.

use api::project::{EnvironmentReport, Observed};
use futures::{StreamExt, stream};
use primitives::foreign_text::clean_block;
use tokio::fs;

use super::{
    Processes,
    directory::EnvironmentDir,
    launch::Launch,
    listener,
    process_table::ProcessTable,
    process_tree::ProcessTree,
    record::{DesiredState, EnvironmentRecord},
    restart::{ProgramEnd, Reaction, unix_seconds},
    usage,
};

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

    /// Continues programs that a copy has frozen when a previous runner ended.
    pub(super) async fn thaw_running(&self) {
        for environment in self.list_environments().await {
            let record = environment.record().await;
            if record.desired == DesiredState::Running {
                record.process.iter().for_each(ProcessTree::thaw);
            }
        }
    }

    /// Measures the files of every environment.
    pub(super) async fn measure_all(&self) {
        let environments = self.list_environments().await;
        let ids: Vec<_> = environments.iter().map(EnvironmentDir::id).collect();
        self.usage.retain_only(&ids);
        self.traffic.retain_only(&ids);
        self.certificate_checks.retain_only(&ids);
        self.health_checks.retain_only(&ids);
        self.measure_containers().await;
        self.check_certificates(&environments).await;
        for environment in environments {
            self.usage.refresh_disk(environment.id(), environment.path()).await;
        }
    }

    /// Returns a report about every environment.
    pub(super) async fn reports_of_all(&self) -> Vec<EnvironmentReport> {
        let environments = self.list_environments().await;
        self.traffic.count_requests().await;
        let table = tokio::task::spawn_blocking(ProcessTable::read).await;
        // Fails only if the runtime is shutting down.
        let table = &table.unwrap_or_else(|_| ProcessTable::read());
        let reports: Vec<_> = environments.iter().map(|it| self.report(it, table)).collect();
        stream::iter(reports).buffer_unordered(CONCURRENCY).collect().await
    }

    /// Returns the environments that have a directory on this machine.
    pub(super) async fn list_environments(&self) -> Vec<EnvironmentDir> {
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
        self.remove_late(environment).await;
        let record = environment.record().await;
        if record.desired != DesiredState::Running || !record.failure.is_empty() {
            return;
        }
        let Some(_lock) = self.locks.try_lock(environment.id()) else { return };
        // Read again, because a task may have changed the record before it was locked.
        let record = environment.record().await;
        let is_running = record.is_running();
        let result = if is_running && self.is_over_disk_limit(environment).await {
            self.stop_over_limit(environment, record).await
        } else if is_running {
            Ok(())
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
        let disk = self.disk_usage(environment);
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

    /// Restarts an ended program when its delay has passed, unless it has ended too often.
    async fn restart(
        &self,
        environment: &EnvironmentDir,
        mut record: EnvironmentRecord,
    ) -> anyhow::Result<()> {
        let launch = environment.launch().await;
        if let Some(launch) = &launch
            && self.lacks_engine(launch).await
        {
            // The end of its containers is no fault of the program, and no restart could succeed.
            tracing::warn!(environment = %environment.id(), "the container engine does not answer");
            return Ok(());
        }
        let now = unix_seconds();
        let end = self.program_end(environment, &record).await;
        if record.restarts.record_end(now, end) {
            let ProgramEnd { exit_code, exceeded_memory_mb } = end;
            tracing::warn!(environment = %environment.id(), exit_code, exceeded_memory_mb,
                "program ended unexpectedly");
            // Background processes of the ended program would keep its port and its files in use.
            if let Some(process) = &record.process {
                process.kill_and_wait().await;
            }
            self.sandbox.accounts.kill_all(environment);
        }
        match record.restarts.reaction(now) {
            Reaction::Wait => {}
            Reaction::Fail => {
                let output = self.quote_last_output(environment, &record).await;
                record.failure = format!("{}; {output}", record.restarts.failure());
            }
            Reaction::Restart => match launch {
                Some(launch) => {
                    record.restarts.record_restart(now);
                    return self.restart_program(environment, record, &launch).await;
                }
                None => {
                    "the launch parameters are missing; deploy the environment again"
                        .clone_into(&mut record.failure);
                }
            },
        }
        environment.write_record(&record).await
    }

    async fn program_end(
        &self,
        environment: &EnvironmentDir,
        record: &EnvironmentRecord,
    ) -> ProgramEnd {
        let Some(process) = &record.process else { return ProgramEnd::default() };
        if let Some(container) = process.container() {
            let launch = environment.launch().await;
            return self.container_end(container, launch.as_ref()).await;
        }
        let exceeded_memory_mb = match environment.launch().await {
            Some(launch) => {
                let limits = launch.limits;
                let exceeded = self.sandbox.memory_limit_exceeded(environment, process, limits);
                exceeded.map(|_| limits.memory_mb)
            }
            None => None,
        };
        ProgramEnd { exit_code: process.exit_code(), exceeded_memory_mb }
    }

    /// Starts a program again. If that fails, the next call of [`Self::restart`] records it as another end.
    async fn restart_program(
        &self,
        environment: &EnvironmentDir,
        mut record: EnvironmentRecord,
        launch: &Launch,
    ) -> anyhow::Result<()> {
        environment.write_record(&record).await?;
        // In the machine's network another program may have the port by now. In a network of its own the
        // program keeps its URL, unless it could not start there.
        let keeps_port = self.sandbox.network.is_separate() && record.restarts.recent == 1;
        let preferred = Some(record.port).filter(|it| keeps_port && *it != 0);
        let port = self.reserve_port(environment, launch, preferred).await?;
        let started = self.start_program(environment, launch, port).await;
        match started {
            Ok(process) => {
                record.set_running(process, port);
                environment.write_record(&record).await?;
                environment.clear_starting_process().await;
                self.release_other_ports(environment, port).await;
                self.remove_other_containers(environment, &record).await;
                self.sync_proxy().await;
            }
            Err(error) => {
                self.release_other_ports(environment, record.port).await;
                let error = format!("{error:#}");
                tracing::info!(environment = %environment.id(), error, "restart failed");
            }
        }
        Ok(())
    }

    /// Returns true if the program passes its health check, and listens on its port itself: in the network of
    /// the machine another program may have the port.
    async fn is_healthy(
        &self,
        environment: &EnvironmentDir,
        record: &EnvironmentRecord,
        launch: &Launch,
        table: &ProcessTable,
    ) -> bool {
        let Some(process) = &record.process else { return false };
        let Ok(address) = self.program_address(environment, process, record.port).await else {
            return false;
        };
        let has_own_network = process.container().is_some() || self.sandbox.network.is_separate();
        // The owner of a port is looked up only where it is needed: the kernel goes through the whole hash
        // table of its connections for each process.
        self.health_checks.is_healthy(environment.id(), address, launch).await
            && (has_own_network || listener::belongs_to(address, process, table).await)
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
        let disk = self.disk_usage(environment);
        let observed = match record.observed() {
            // Not reported as failed before the last restart has failed.
            Observed::Failed if record.failure.is_empty() => Observed::Running,
            other => other,
        };
        let launch = environment.launch().await;
        let is_healthy = match &launch {
            Some(launch) if record.is_running() => {
                self.is_healthy(environment, &record, launch, table).await
            }
            _ => false,
        };
        let server_address = launch.as_ref().map_or("", |it| &it.server_address);
        let url = if observed == Observed::Running {
            self.url(environment, &record, server_address).await.unwrap_or_default()
        } else {
            String::new()
        };
        EnvironmentReport {
            environment_id: environment.id().to_string(),
            observed: observed.into(),
            http_ok: is_healthy,
            cpu_cores: usage.cpu_cores,
            memory_bytes: usage.memory_bytes,
            disk_bytes: disk.bytes,
            process_count: usage.processes,
            release: record.release,
            detail: clean_block(&record.failure, DETAIL_BYTES_MAX),
            url,
            restart_count: i32::try_from(record.restarts.total).unwrap_or(i32::MAX),
            last_exit_code: record.restarts.last_exit_code,
            traffic: Some(self.traffic.totals(environment.id(), root)),
            certificate: self.certificate_checks.first_to_expire(environment.id()),
        }
    }
}
