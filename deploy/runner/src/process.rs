//! The driver that runs environments as sandboxed processes of this machine.
//!
//! | concept | file |
//! |---|---|
//! | files of an environment | `directory`, `record` |
//! | accounts, networks, ports, limits | `account`, `network`, `port`, `limits` |
//! | the sandbox of everything that a tenant controls | `sandbox`, `bubblewrap` |
//! | commands that a repository asks for | `manifest` |
//! | fetching and building a version, copying one | `release`, `copy` |
//! | starting a program | `launch`, `http` |
//! | processes of this machine | `process_table`, `process_tree` |
//! | databases of environments | `database` |
//! | usage, restarts, reports | `usage`, `supervise` |

mod account;
mod bubblewrap;
mod copy;
mod database;
mod directory;
mod http;
mod launch;
mod limits;
mod manifest;
mod network;
mod port;
mod process_table;
mod process_tree;
mod record;
mod release;
mod sandbox;
mod supervise;
mod usage;

use std::{
    collections::HashMap,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use api::project::{EnvironmentReport, Lease, Observed, Variable};
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

pub use network::NetworkSettings;

use crate::{
    Settings,
    driver::{Driver, DriverInfo, ProgressReporter, TaskOutcome},
};
use account::Accounts;
use database::Databases;
use directory::EnvironmentDir;
use launch::Launch;
use limits::Limiter;
use manifest::Manifest;
use network::Network;
use process_tree::ProcessTree;
use record::{DesiredState, EnvironmentRecord};
use sandbox::Sandbox;
use usage::UsageMeter;

/// Time for a program until it serves, unless its repository says otherwise.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Steps of a deployment.
const STEPS: i32 = 5;

/// The environments that run on this machine.
pub(crate) struct Processes {
    settings: Settings,
    sandbox: Sandbox,
    usage: UsageMeter,
    databases: Databases,
    /// Locks of environments that a task or the supervision works on.
    locks: Mutex<HashMap<Uuid, Arc<EnvironmentLock>>>,
}

/// Held by whoever works on an environment.
type EnvironmentLock = tokio::sync::Mutex<()>;

impl Processes {
    pub(crate) async fn new(settings: Settings) -> Result<Self> {
        let root = &settings.data_dir;
        std::fs::create_dir_all(root)
            .with_context(|| format!("cannot create {}", root.display()))?;
        // Accounts of environments reach their own folders; names of others are not listed.
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o711))?;
        // Local repositories belong to whoever made them, which git distrusts.
        std::fs::write(root.join("gitconfig"), "[safe]\n\tdirectory = *\n")?;
        let accounts = Accounts::new(root.clone());
        accounts.check_reachable()?;
        let network = Network::probe(&settings.network, settings.bind).await;
        let limiter = Limiter::probe();
        let sandbox = Sandbox::probe(root, accounts, network, limiter, settings.isolation).await?;
        let (isolation, limits) = (sandbox.description(), sandbox.limiter.description());
        tracing::info!(isolation, limits, missing = ?sandbox.missing(), "the runner starts");
        let databases = Databases::new(root.join("services"), settings.database_url.clone());
        let (usage, locks) = (UsageMeter::default(), Mutex::default());
        Ok(Self { settings, sandbox, usage, databases, locks })
    }

    fn environment(&self, id: &str) -> Result<EnvironmentDir> {
        EnvironmentDir::new(&self.settings.data_dir, id)
    }

    fn gitconfig(&self) -> PathBuf {
        self.settings.data_dir.join("gitconfig")
    }

    fn lock_of(&self, environment: &EnvironmentDir) -> Arc<EnvironmentLock> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, it| Arc::strong_count(it) > 1);
        locks.entry(environment.id()).or_default().clone()
    }

    /// Waits until nobody else works on an environment.
    async fn hold(&self, environment: &EnvironmentDir) -> OwnedMutexGuard<()> {
        self.lock_of(environment).lock_owned().await
    }

    /// Holds an environment unless somebody works on it.
    fn try_hold(&self, environment: &EnvironmentDir) -> Option<OwnedMutexGuard<()>> {
        self.lock_of(environment).try_lock_owned().ok()
    }

    /// The lease with the variables of its extra services, which are there when this returns.
    async fn with_extra_services(&self, lease: &Lease, report: &ProgressReporter) -> Result<Lease> {
        let mut lease = lease.clone();
        for provision in &lease.provisions {
            let key = &provision.service_key;
            let value = self.databases.provide(&self.sandbox.network, provision).await;
            let value = value.with_context(|| format!("{key} cannot be provided"))?;
            let line = if value.is_some() { "is ready" } else { "is removed" };
            report.log(vec![format!("{key} {line}")]).await;
            let name = provision.variable.clone();
            lease.variables.extend(value.map(|value| Variable { name, value }));
        }
        Ok(lease)
    }

    /// Starts what was deployed, on its port. Returns its URL.
    async fn start_release(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        record: &mut EnvironmentRecord,
    ) -> Result<String> {
        ensure!(!record.release.is_empty(), "nothing is deployed here; deploy it first");
        let manifest = Manifest::read(environment, &record.release)?;
        let launch = Launch::new(lease, &record.release, &manifest);
        let port = self.reserve_port(environment, record.port).await?;
        let timeout = manifest.start_timeout(START_TIMEOUT);
        let process = self.serve(environment, &launch, port, timeout).await?;
        environment.write_launch(&launch).await?;
        record.set_running(process, port);
        environment.write_record(record).await?;
        environment.clear_starting().await;
        self.url(environment, port).await
    }

    /// Ends everything of an environment that is not held by its record.
    fn end_rest(&self, environment: &EnvironmentDir) {
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
        let _held = self.hold(&environment).await;
        environment.prepare(&self.sandbox.accounts).await?;
        let lease = &self.with_extra_services(lease, report).await?;
        let mut record = environment.record().await;
        if record.release == lease.release && record.is_running() {
            // An earlier runner did it all, but ended before it reported.
            report.step("done", STEPS, STEPS, "it serves already").await;
            let url = self.url(&environment, record.port).await?;
            return Ok(TaskOutcome { commit: record.commit, url, ..TaskOutcome::default() });
        }
        let prepared = async {
            let checkout = self.fetch(lease, &environment, &record, report).await?;
            let commit_info = self.commit_info(lease, &environment).await;
            let manifest = self.build(lease, &environment, &checkout, report).await?;
            Ok::<_, anyhow::Error>((checkout, commit_info, manifest))
        };
        let prepared = prepared.await;
        if prepared.is_err() && !record.releases.contains(&lease.release) {
            // A failed version takes no disk.
            environment.remove_release(&lease.release).await?;
        }
        let (checkout, commit_info, manifest) = prepared?;
        let launch = Launch::new(lease, &lease.release, &manifest);
        let port = self.reserve_port(&environment, 0).await?;
        let line = format!("starting `{}` on port {port}", launch.command);
        report.step("start", 3, STEPS, line).await;
        let timeout = manifest.start_timeout(START_TIMEOUT);
        let served = self.serve(&environment, &launch, port, timeout).await;
        if served.is_err() {
            self.release_port(&environment, port).await;
        }
        let process = served?;
        report.step("health", 4, STEPS, "it answers").await;
        report.settle();
        let old_port = record.port;
        let old = record.switch_release(process, port, &lease.release, &checkout.commit);
        environment.write_launch(&launch).await?;
        environment.write_record(&record).await?;
        environment.clear_starting().await;
        let url = self.url(&environment, port).await?;
        if let Some(old) = old {
            old.stop().await;
            self.release_port(&environment, old_port).await;
        }
        record.previous = None;
        environment.write_record(&record).await?;
        environment.remove_old_releases(&record).await?;
        self.sandbox.limiter.remove_empty(&environment.id().to_string());
        report.step("done", STEPS, STEPS, format!("serving on {url}")).await;
        Ok(TaskOutcome { commit: checkout.commit, commit_info, url, observed: None })
    }

    async fn start(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _held = self.hold(&environment).await;
        let mut record = environment.record().await;
        report.step("start", 1, 2, "starting").await;
        let url = if record.is_running() {
            self.url(&environment, record.port).await?
        } else {
            let lease = &self.with_extra_services(lease, report).await?;
            self.start_release(lease, &environment, &mut record).await?
        };
        report.step("done", 2, 2, format!("serving on {url}")).await;
        Ok(TaskOutcome { commit: record.commit, url, ..TaskOutcome::default() })
    }

    async fn stop(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _held = self.hold(&environment).await;
        report.step("stop", 1, 2, "stopping").await;
        environment.end_unfinished().await;
        let mut record = environment.record().await;
        let process = record.set_stopped();
        // Written first, so that the supervision does not restart it.
        environment.write_record(&record).await?;
        if let Some(process) = process {
            process.stop().await;
        }
        self.end_rest(&environment);
        self.release_port(&environment, record.port).await;
        Ok(TaskOutcome { commit: record.commit, ..TaskOutcome::default() })
    }

    async fn pause(&self, lease: &Lease, _: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _held = self.hold(&environment).await;
        let mut record = environment.record().await;
        let process = record.process.clone().filter(ProcessTree::is_alive);
        let process = process.context("it does not run, so it cannot be paused")?;
        record.desired = DesiredState::Paused;
        environment.write_record(&record).await?;
        process.freeze();
        Ok(TaskOutcome::default())
    }

    async fn resume(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        {
            let _held = self.hold(&environment).await;
            let mut record = environment.record().await;
            if let Some(process) = record.process.clone().filter(ProcessTree::is_alive) {
                process.thaw();
                record.desired = DesiredState::Running;
                environment.write_record(&record).await?;
                let url = self.url(&environment, record.port).await?;
                return Ok(TaskOutcome { url, ..TaskOutcome::default() });
            }
        }
        // The machine was restarted meanwhile: the frozen process is gone, its data is not.
        self.start(lease, report).await
    }

    async fn observe(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _held = self.hold(&environment).await;
        let record = environment.record().await;
        let observed = record.observed();
        report.log(vec![format!("found: {}", observed.as_str_name())]).await;
        let url = if observed == Observed::Running {
            self.url(&environment, record.port).await?
        } else {
            String::new()
        };
        let observed = Some(observed);
        Ok(TaskOutcome { commit: record.commit, url, observed, ..TaskOutcome::default() })
    }

    async fn copy(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let source = self.environment(&lease.source_environment_id)?;
        // In one order, so that two copies in opposite directions do not wait for each other.
        let mut both = [&environment, &source];
        both.sort_by_key(|it| it.id());
        let _first = self.hold(both[0]).await;
        let _second = self.hold(both[1]).await;
        self.copy_environment(lease, report).await
    }

    async fn provision(&self, lease: &Lease, report: &ProgressReporter) -> Result<TaskOutcome> {
        let environment = self.environment(&lease.environment_id)?;
        let _held = self.hold(&environment).await;
        report.step("provision", 1, 2, "providing extra services").await;
        self.with_extra_services(lease, report).await?;
        report.step("done", 2, 2, "the program finds them from its next start on").await;
        Ok(TaskOutcome::default())
    }

    fn database_address(&self) -> String {
        self.databases.address()
    }

    async fn destroy(&self, environment_id: &str) -> Result<()> {
        let environment = self.environment(environment_id)?;
        let _held = self.hold(&environment).await;
        environment.end_unfinished().await;
        let record = environment.record().await;
        for process in [record.process, record.previous].into_iter().flatten() {
            process.stop().await;
        }
        self.end_rest(&environment);
        self.release_port(&environment, record.port).await;
        self.sandbox.network.detach(&environment).await;
        environment.remove().await?;
        if self.databases.exists() {
            let name = database::name(environment_id);
            self.databases.remove(&self.sandbox.network, &name).await?;
        }
        Ok(())
    }

    async fn abandon(&self, lease: &Lease) -> Result<()> {
        let environment = self.environment(&lease.environment_id)?;
        let _held = self.hold(&environment).await;
        environment.end_unfinished().await;
        if environment.record().await.release != lease.release && !lease.release.is_empty() {
            environment.remove_release(&lease.release).await?;
        }
        Ok(())
    }

    async fn reconcile(&self) {
        self.databases.resume(&self.sandbox.network).await;
        self.reconcile_all().await;
    }

    async fn measure(&self) {
        self.measure_all().await;
    }

    async fn reports(&self) -> Vec<EnvironmentReport> {
        self.reports_of_all().await
    }
}
