//! Driver that runs environments as sandboxed processes of this machine.
//!
//! | concept | file |
//! |---|---|
//! | files and state of an environment | `directory`, `sandbox_files`, `record`, `lock` |
//! | user ids, networks, ports, resource limits | `account`, `network`, `port`, `limits` |
//! | host names and routes of the proxy | `address` |
//! | sandbox of all commands that a tenant controls | `sandbox`, `bubblewrap` |
//! | build and run commands of a repository | `manifest`, `text_file` |
//! | deploying a version: fetching, building, replacing | `deploy`, `release`, `submodules`, `build` |
//! | copying an environment | `copy` |
//! | starting a program, its output, health check | `launch`, `log`, `health`, `http`, `listener` |
//! | processes of this machine | `process_table`, `process_tree` |
//! | databases of environments | `database` |
//! | usage, restarts, reports | `usage`, `restart`, `supervise` |

mod account;
mod address;
mod bubblewrap;
mod build;
mod copy;
mod database;
mod deploy;
mod directory;
mod health;
mod http;
mod launch;
mod limits;
mod listener;
mod lock;
mod log;
mod manifest;
mod network;
mod port;
mod process_table;
mod process_tree;
mod record;
mod release;
mod restart;
mod sandbox;
mod sandbox_files;
mod submodules;
mod supervise;
mod text_file;
mod usage;

use std::{os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use api::project::{EnvironmentReport, Lease, Observed, TaskKind, Variable};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::{
    certificate::CertificateStore,
    driver::{Driver, DriverInfo, EnvironmentHostname, ProgressReporter, TaskOutcome},
    proxy::Caddy,
    settings::{Settings, Tls},
};
use account::Accounts;
use database::Databases;
use directory::EnvironmentDir;
use health::HealthChecks;
use limits::{Limiter, ResourceLimits};
use lock::Locks;
use network::Network;
use process_tree::ProcessTree;
use record::DesiredState;
use sandbox::Sandbox;
use usage::UsageMeter;

/// Configuration of git for all environments. It refuses repositories of other owners (`safe.directory`), and
/// local ones belong to other accounts. Large files are streamed, because git has the memory limit of a
/// build.
const GIT_CONFIGURATION: &str = "[safe]\n\tdirectory = *\n[core]\n\tbigFileThreshold = 16m\n\
                                 [pack]\n\tthreads = 1\n\twindowMemory = 32m\n";

/// Number of steps of a deployment.
const DEPLOY_STEPS: i32 = 5;

/// The driver: runs the environments of this machine as processes.
pub(crate) struct Processes {
    settings: Settings,
    sandbox: Sandbox,
    usage: UsageMeter,
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
        let isolation = sandbox.description();
        let limits = sandbox.limiter.description();
        tracing::info!(isolation, limits, missing = ?sandbox.missing(), "runner started");
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
                Some(Mutex::new(caddy))
            }
            None => None,
        };
        let processes = Self {
            settings,
            sandbox,
            usage,
            health_checks,
            databases,
            locks,
            certificates,
            proxy,
            build_memory_mb,
        };
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

    /// Locks an environment; waits while another task or the supervision has locked it.
    async fn lock(&self, environment: &EnvironmentDir) -> OwnedMutexGuard<()> {
        self.locks.lock(environment.id()).await
    }

    /// Provisions the add-ons of a lease. Returns the lease with the variables through which the program
    /// finds them.
    async fn provision_addons(&self, lease: &Lease, report: &ProgressReporter) -> Result<Lease> {
        let mut lease = lease.clone();
        for provision in &lease.provisions {
            let key = &provision.addon_key;
            let value = self.databases.provision(&self.sandbox.network, provision).await;
            let value = value.with_context(|| format!("add-on {key} cannot be provisioned"))?;
            let state = if value.is_some() { "ready" } else { "removed" };
            report.log(vec![format!("add-on {key}: {state}")]).await;
            let name = provision.variable.clone();
            lease.variables.extend(value.map(|value| Variable { name, value, secret: true }));
        }
        Ok(lease)
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
            isolation: self.sandbox.description(),
            limits: self.sandbox.limiter.description().to_owned(),
        }
    }

    async fn deploy(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _lock = self.lock(&environment).await;
        self.deploy_version(lease, &environment, report).await
    }

    async fn start(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _lock = self.lock(&environment).await;
        let mut record = environment.record().await;
        report.step("start", 1, 2, "starting").await;
        self.store_hostname(&environment, lease).await?;
        let url = if record.is_running() {
            self.url(&environment, record.port, &lease.server_address).await?
        } else {
            let lease = &self.provision_addons(lease, report).await?;
            self.start_release(lease, &environment, &mut record, report).await?
        };
        report.step("done", 2, 2, format!("running at {url}")).await;
        Ok(TaskOutcome { commit: record.commit, url, ..TaskOutcome::default() })
    }

    async fn stop(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _lock = self.lock(&environment).await;
        report.step("stop", 1, 2, "stopping").await;
        environment.stop_leftovers().await;
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
        self.release_port(&environment, record.port).await;
        Ok(TaskOutcome { commit: record.commit, ..TaskOutcome::default() })
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

    async fn pause(&self, lease: &Lease, _: &ProgressReporter) -> Result<TaskOutcome> {
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

    async fn resume(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
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
                let url = self.url(&environment, record.port, &lease.server_address).await?;
                return Ok(TaskOutcome { url, ..TaskOutcome::default() });
            }
        }
        // The frozen process ended, for example with a restart of the machine. Its data is kept.
        self.start(lease, report).await
    }

    async fn observe(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _lock = self.lock(&environment).await;
        let record = environment.record().await;
        let observed = record.observed();
        report.log(vec![format!("actual state: {}", observed.as_str_name())]).await;
        let url = if observed == Observed::Running {
            self.url(&environment, record.port, &lease.server_address).await?
        } else {
            String::new()
        };
        let observed = Some(observed);
        Ok(TaskOutcome { commit: record.commit, url, observed, ..TaskOutcome::default() })
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
        let environment = self.environment(environment_id)?;
        let _lock = self.lock(&environment).await;
        environment.stop_leftovers().await;
        let record = environment.record().await;
        for process in [record.process, record.previous].into_iter().flatten() {
            process.stop().await;
        }
        self.kill_remaining(&environment);
        self.release_port(&environment, record.port).await;
        self.sandbox.network.detach(&environment).await;
        environment.remove().await?;
        self.sync_proxy().await;
        if self.databases.exists() {
            let name = database::database_name(environment_id);
            self.databases.remove(&self.sandbox.network, &name).await?;
        }
        Ok(())
    }

    async fn abandon(&self, lease: &Lease) -> Result<()> {
        let environment = self.environment(&lease.environment_id)?;
        let _lock = self.lock(&environment).await;
        environment.stop_leftovers().await;
        if environment.record().await.release != lease.release && !lease.release.is_empty() {
            environment.remove_release(&lease.release).await?;
        }
        if lease.kind() == TaskKind::Clone {
            self.abandon_copy(lease, &environment).await?;
        }
        Ok(())
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

    async fn reports(&self) -> Vec<EnvironmentReport> {
        self.reports_of_all().await
    }
}
