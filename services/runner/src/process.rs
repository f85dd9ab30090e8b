//! Driver that runs environments as processes of this machine: each program in a sandbox, or in a container
//! of an engine (`crate::docker`). Everything else is the same for both: code, data, add-ons, health checks,
//! restarts, host names.
//!
//! | concept | file |
//! |---|---|
//! | files and state of an environment | `directory`, `sandbox_files`, `record`, `lock` |
//! | user ids, networks, ports, resource limits | `account`, `network`, `port`, `limits` |
//! | host names, routes and certificates of the proxy | `address`, `certificate_check` |
//! | sandbox of all commands that a tenant controls | `sandbox`, `bubblewrap` |
//! | build and run commands of a repository | `manifest`, `text_file` |
//! | deploying a version: fetching, building, replacing | `deploy`, `release`, `submodules`, `build` |
//! | starting, stopping, pausing a version | `state_task` |
//! | copying an environment | `copy` |
//! | images and programs in containers | `container_build`, `dockerignore`, `container` |
//! | commands of tasks in containers | `container_command` |
//! | versions of recipes | `recipe_task` |
//! | starting a program, its output, health check | `launch`, `log`, `health`, `http`, `listener` |
//! | commands of people, terminals | `command`, `terminal` |
//! | processes of this machine | `process_table`, `process_tree` |
//! | databases of environments | `database` |
//! | usage, restarts, reports | `usage`, `traffic`, `restart`, `supervise` |

mod account;
mod address;
mod bubblewrap;
mod build;
mod certificate_check;
mod command;
mod container;
mod container_build;
mod container_command;
mod copy;
mod database;
mod deploy;
mod destroy;
mod directory;
mod dockerignore;
mod health;
mod http;
mod launch;
mod limits;
mod listener;
mod lock;
mod log;
mod manifest;
mod memory_group;
mod network;
mod port;
mod process_table;
mod process_tree;
mod recipe_task;
mod record;
mod release;
mod restart;
mod sandbox;
mod sandbox_files;
mod state_task;
mod submodules;
mod supervise;
mod terminal;
mod text_file;
mod traffic;
mod usage;

use std::{os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use api::project::{CommandLease, EnvironmentReport, Lease, LogLine, LogQuery, Observed};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc::Sender};

use crate::{
    certificate::CertificateStore,
    docker::Docker,
    driver::{
        CommandResult, CommandStreams, Driver, DriverInfo, EnvironmentHostname, ProgressReporter,
        TaskOutcome,
    },
    proxy::Caddy,
    recipe::Recipes,
    settings::{Settings, Tls},
};
use account::Accounts;
use certificate_check::CertificateChecks;
use command::Sessions;
use database::Databases;
use directory::EnvironmentDir;
use health::HealthChecks;
use limits::{Limiter, ResourceLimits};
use lock::Locks;
use log::{LineSink, LogReader, OpenLogs};
use network::Network;
use sandbox::Sandbox;
use traffic::TrafficMeter;
use usage::UsageMeter;

/// Configuration of git for all environments. It refuses repositories of other owners (`safe.directory`), and
/// local ones belong to other accounts. Large files are streamed, because git has the memory limit of a
/// build.
const GIT_CONFIGURATION: &str = "[safe]\n\tdirectory = *\n[core]\n\tbigFileThreshold = 16m\n\
                                 [pack]\n\tthreads = 1\n\twindowMemory = 32m\n";

const DEPLOY_STEPS: i32 = 5;

/// The driver: runs the environments of this machine as processes.
pub(crate) struct Processes {
    settings: Settings,
    sandbox: Sandbox,
    usage: UsageMeter,
    traffic: TrafficMeter,
    certificate_checks: CertificateChecks,
    sessions: Sessions,
    health_checks: HealthChecks,
    databases: Databases,
    /// Locks per environment, shared by tasks and supervision.
    locks: Locks,
    /// Certificates that the runner requests; `None`: Caddy requests them, or there are none.
    certificates: Option<Arc<CertificateStore>>,
    /// `None`: environments have no host names.
    proxy: Option<Mutex<Caddy>>,
    /// Memory of a build in MiB.
    build_memory_mb: u32,
    /// Engine of containers; `None`: all programs run in sandboxes.
    docker: Option<Docker>,
    recipes: Recipes,
    /// Logs that are read.
    open_logs: OpenLogs,
}

/// Creates the runner's directory, and finds the isolation that this machine gives. Fails if the settings
/// require more.
pub(crate) async fn probe_sandbox(settings: &Settings) -> Result<Sandbox> {
    let root = &settings.data_dir;
    std::fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
    // 0711: accounts of environments can enter their own directory but not list the others.
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o711))?;
    let accounts = Accounts::new(root.clone());
    accounts.check_reachable()?;
    let network = Network::probe(&settings.network, settings.bind).await;
    Sandbox::probe(root, accounts, network, Limiter::probe(), settings.isolation).await
}

impl Processes {
    pub(crate) async fn new(settings: Settings) -> Result<Self> {
        let sandbox = probe_sandbox(&settings).await?;
        let root = &settings.data_dir;
        std::fs::write(root.join("gitconfig"), GIT_CONFIGURATION)?;
        let recipes = settings.docker.as_ref().map(|it| Recipes::load(&it.recipes)).transpose()?;
        let docker = container::connect(&settings, &sandbox).await?;
        let databases = Databases::new(root.join("services"), settings.database_url.clone());
        let usage = UsageMeter::default();
        let health_checks = HealthChecks::default();
        let locks = Locks::default();
        let machine_mb = u32::try_from(usage::capacity(&settings.data_dir).memory_mb).unwrap_or(0);
        let build_memory_mb = limits::build_memory_mb(settings.build_memory_mb, machine_mb);
        let requests = settings.proxy.as_ref().is_some_and(|it| matches!(it.tls, Tls::AcmeDns(_)));
        let certificates = if requests {
            Some(Arc::new(CertificateStore::open(root.join("certificates"))?))
        } else {
            None
        };
        let proxy = match &settings.proxy {
            Some(proxy) => {
                let account = sandbox.accounts.of_proxy()?;
                let folder = root.join("proxy");
                let caddy = Caddy::new(proxy, folder, account, certificates.clone()).await?;
                Some(caddy)
            }
            None => None,
        };
        let traffic = TrafficMeter::new(proxy.as_ref().map(Caddy::access_log));
        let proxy = proxy.map(Mutex::new);
        let processes = Self {
            settings,
            sandbox,
            usage,
            traffic,
            certificate_checks: CertificateChecks::default(),
            sessions: Sessions::default(),
            health_checks,
            databases,
            locks,
            certificates,
            proxy,
            build_memory_mb,
            docker,
            recipes: recipes.unwrap_or_default(),
            open_logs: OpenLogs::default(),
        };
        let DriverInfo { isolation, limits, .. } = processes.info();
        tracing::info!(isolation, limits, missing = ?processes.sandbox.missing(), "runner started");
        processes.thaw_running().await;
        if let Some(proxy) = &processes.proxy {
            proxy.lock().await.apply(&processes.routes().await).await?;
        }
        Ok(processes)
    }

    fn environment(&self, id: &str) -> Result<EnvironmentDir> {
        EnvironmentDir::new(&self.settings.data_dir, id)
    }

    /// Returns the limits of builds, and of git.
    fn build_limits(&self, lease: &Lease) -> ResourceLimits {
        ResourceLimits::of_build(lease.resources, self.build_memory_mb)
    }

    fn gitconfig(&self) -> PathBuf {
        self.settings.data_dir.join("gitconfig")
    }

    /// Locks an environment; waits while it is locked.
    async fn lock(&self, environment: &EnvironmentDir) -> OwnedMutexGuard<()> {
        self.locks.lock(environment.id()).await
    }

    /// Kills all processes of an environment's account, and removes its control groups. Called after the
    /// recorded processes have been stopped.
    fn kill_remaining(&self, environment: &EnvironmentDir) {
        self.sandbox.accounts.kill_all(environment);
        self.sandbox.limiter.remove_empty(&environment.id().to_string());
    }
}

#[tonic::async_trait]
impl Driver for Processes {
    fn info(&self) -> DriverInfo {
        DriverInfo {
            capacity: usage::capacity(&self.settings.data_dir),
            isolation: self.describe_isolation(),
            limits: self.describe_limits(),
        }
    }

    async fn deploy(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _lock = self.lock(&environment).await;
        self.deploy_version(lease, &environment, report).await
    }

    async fn start(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        self.start_version(lease, report).await
    }

    async fn stop(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        self.stop_version(lease, report).await
    }

    async fn restart(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        {
            let _lock = self.lock(&environment).await;
            let mut record = environment.record().await;
            if self.is_proxied(lease) && record.is_running() {
                return self.restart_beside(lease, &environment, &mut record, report).await;
            }
        }
        self.stop(lease, report).await?;
        self.start(lease, report).await
    }

    async fn update_modules(
        &self,
        lease: &Lease,
        report: &ProgressReporter,
    ) -> Result<TaskOutcome> {
        self.update_modules_and_restart(lease, report).await
    }

    async fn pause(&self, lease: &Lease, _: &ProgressReporter) -> Result<TaskOutcome> {
        self.pause_version(lease).await
    }

    async fn resume(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        self.resume_version(lease, report).await
    }

    async fn observe(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        self.observe_version(lease, report).await
    }

    async fn copy(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let source = self.environment(&lease.source_environment_id)?;
        // Locked in the order of their ids, so that two copies in opposite directions cannot deadlock.
        let mut by_id = [&environment, &source];
        by_id.sort_by_key(|it| it.id());
        let mut locks = [self.lock(by_id[0]).await, self.lock(by_id[1]).await];
        if by_id[0].id() != environment.id() {
            locks.swap(0, 1);
        }
        let [_lock, source_lock] = locks;
        self.copy_environment(lease, source_lock, report).await
    }

    async fn provision(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _lock = self.lock(&environment).await;
        report.step("provision", 1, 2, "provisioning add-ons").await;
        self.provision_addons(lease, report).await?;
        report
            .step("done", 2, 2, "the program receives the changed variables at its next start")
            .await;
        Ok(TaskOutcome::default())
    }

    fn database_address(&self) -> String {
        self.databases.address()
    }

    async fn destroy(&self, environment_id: &str) -> Result<()> {
        self.destroy_environment(&self.environment(environment_id)?).await
    }

    async fn abandon(&self, lease: &Lease) -> Result<()> {
        self.abandon_task(lease, &self.environment(&lease.environment_id)?).await
    }

    async fn observed(&self, environment_id: &str) -> Option<Observed> {
        let environment = self.environment(environment_id).ok()?;
        environment.record().await.observed_if_deployed()
    }

    async fn reconcile(&self) {
        self.databases.resume(&self.sandbox.network).await;
        self.sync_proxy().await;
        self.reconcile_all().await;
    }

    async fn measure(&self) {
        self.measure_all().await;
    }

    async fn hostnames(&self) -> Vec<EnvironmentHostname> {
        self.environment_hostnames().await
    }

    fn certificates(&self) -> Option<Arc<CertificateStore>> {
        self.certificates.clone()
    }

    async fn read_log(
        &self,
        environment_id: &str,
        query: &LogQuery,
        lines: Sender<Vec<LogLine>>,
    ) -> Result<()> {
        let environment = &self.environment(environment_id)?;
        let engine = self.docker.as_ref().map(Docker::output);
        let (open_logs, sink) = (&self.open_logs, LineSink::new(lines));
        LogReader { environment, engine, open_logs, query, sink }.run().await
    }

    async fn run_command(
        &self,
        environment_id: &str,
        command: &CommandLease,
        streams: CommandStreams,
    ) -> Result<CommandResult> {
        self.run_session(&self.environment(environment_id)?, command, streams).await
    }

    async fn reports(&self) -> Vec<EnvironmentReport> {
        self.reports_of_all().await
    }
}
