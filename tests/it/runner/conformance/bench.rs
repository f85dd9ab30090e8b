//! A driver under test, with a repository and environments.

use std::sync::{Arc, Mutex};

use api::project::{EnvironmentReport, Lease, Observed, Resources, TaskKind, Variable};
use runner::driver::{Driver, ProgressReporter, TaskOutcome};
use tempfile::TempDir;
use testkit::{Repository, eventually};
use tokio::sync::mpsc;

use super::Technology;
use crate::support::hosting::response;

/// Result of a task, and the lines of its log.
pub(in crate::runner) struct Played {
    pub(in crate::runner) result: anyhow::Result<TaskOutcome>,
    pub(in crate::runner) log: String,
}

impl Played {
    /// The outcome of a task that must succeed.
    pub(in crate::runner) fn outcome(self) -> TaskOutcome {
        self.result.unwrap_or_else(|error| panic!("{error:#}\n{}", self.log))
    }

    /// The error of a task that must fail.
    pub(in crate::runner) fn error(self) -> String {
        format!("{:#}", self.result.expect_err("the task fails"))
    }
}

/// A driver, a repository, and the environments that a test has used.
pub(in crate::runner) struct Bench {
    pub(in crate::runner) driver: Arc<dyn Driver>,
    pub(in crate::runner) repository: Repository,
    folder: TempDir,
    environments: Mutex<Vec<String>>,
}

impl Bench {
    pub(in crate::runner) async fn new(technology: &impl Technology) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        // Accounts of environments enter the directory.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        let driver = technology.start(&folder.path().join("runner")).await?;
        let repository = Repository::new("one");
        Some(Self { driver, repository, folder, environments: Mutex::default() })
    }

    /// Replaces the driver by another one with the same files, as after a crash of the runner.
    pub(in crate::runner) async fn with_next_runner(
        mut self,
        technology: &impl Technology,
    ) -> Option<Self> {
        self.driver = technology.start(&self.folder.path().join("runner")).await?;
        Some(self)
    }

    /// Destroys all environments.
    pub(in crate::runner) async fn finish(self) {
        let ids = self.environments.lock().unwrap().clone();
        for id in ids {
            self.driver.destroy(&id).await.unwrap();
        }
    }

    /// Id of a new environment.
    pub(in crate::runner) fn environment(&self) -> String {
        let id = chassis::id::new().to_string();
        self.environments.lock().unwrap().push(id.clone());
        id
    }

    /// Commits a manifest with these commands, and a page.
    pub(in crate::runner) fn commit(&self, page: &str, build: &str, run: &str) {
        self.commit_with_timeout(page, build, run, 20);
    }

    pub(in crate::runner) fn commit_with_timeout(
        &self,
        page: &str,
        build: &str,
        run: &str,
        timeout_s: u32,
    ) {
        let manifest = format!(
            "[build]\ncommand = '''{build}'''\n[run]\ncommand = '''{run}'''\n\
             [health]\ntimeout_s = {timeout_s}\n"
        );
        self.repository.write("tenantry.toml", &manifest);
        self.repository.commit(page);
    }

    /// Record of an environment that the driver keeps for the next runner.
    pub(in crate::runner) fn record(&self, environment: &str) -> serde_json::Value {
        let file = self.folder.path().join("runner").join(environment).join("record.json");
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }

    /// A lease of a task; a deployment has a release of its own.
    pub(in crate::runner) fn lease(&self, kind: TaskKind, environment: &str) -> Lease {
        let task_id = chassis::id::new().to_string();
        Lease {
            release: task_id.clone(),
            task_id,
            lease_id: chassis::id::new().to_string(),
            environment_id: environment.to_owned(),
            repository_url: self.repository.url(),
            branch: "main".to_owned(),
            kind: kind.into(),
            resources: Some(Resources { cpu_cores: 1.0, memory_mb: 512, disk_gb: 1 }),
            ..Lease::default()
        }
    }

    /// Executes a task.
    pub(in crate::runner) async fn play(&self, lease: &Lease) -> Played {
        let (sender, mut updates) = mpsc::channel(64);
        let report = ProgressReporter::new(sender, lease);
        let collect = async {
            let mut lines = vec![];
            while let Some(update) = updates.recv().await {
                lines.extend(update.lines);
            }
            lines.join("\n")
        };
        let execute = async {
            // Dropped at its end, which ends the collection of the log.
            let report = report;
            match lease.kind() {
                TaskKind::Start => self.driver.start(lease, &report).await,
                TaskKind::Stop => self.driver.stop(lease, &report).await,
                TaskKind::Pause => self.driver.pause(lease, &report).await,
                TaskKind::Resume => self.driver.resume(lease, &report).await,
                TaskKind::Sync => self.driver.observe(lease, &report).await,
                TaskKind::Clone => self.driver.copy(lease, &report).await,
                TaskKind::UpdateModules => self.driver.update_modules(lease, &report).await,
                _ => self.driver.deploy(lease, &report).await,
            }
        };
        let (result, log) = tokio::join!(execute, collect);
        Played { result, log }
    }

    /// Deploys the newest commit; returns the lease and the URL.
    pub(in crate::runner) async fn deploy(&self, environment: &str) -> (Lease, String) {
        let lease = self.lease(TaskKind::Deploy, environment);
        let url = self.play(&lease).await.outcome().url;
        (lease, url)
    }

    /// Deploys with a variable `SECRET`, which the page contains.
    pub(in crate::runner) async fn deploy_with(
        &self,
        environment: &str,
        secret: &str,
    ) -> (Lease, String) {
        let lease = with_secret(self.lease(TaskKind::Deploy, environment), secret);
        let url = self.play(&lease).await.outcome().url;
        (lease, url)
    }

    /// Executes a task of the deployed version.
    pub(in crate::runner) async fn operate(&self, kind: TaskKind, deployed: &Lease) -> Played {
        let lease = self.lease(kind, &deployed.environment_id);
        self.play(&Lease { release: deployed.release.clone(), ..lease }).await
    }

    /// The page at a URL, which must serve.
    pub(in crate::runner) async fn page(&self, url: &str) -> String {
        response(url, "/").await
    }

    /// The report about an environment.
    pub(in crate::runner) async fn report(&self, environment: &str) -> EnvironmentReport {
        let reports = self.driver.reports().await;
        reports.into_iter().find(|it| it.environment_id == environment).expect("a report")
    }

    /// Lets the driver supervise its environments until the report about one has an observed state.
    pub(in crate::runner) async fn supervise_until(&self, environment: &str, observed: Observed) {
        let reached = async || {
            self.driver.reconcile().await;
            (self.report(environment).await.observed() == observed).then_some(())
        };
        eventually(observed.as_str_name(), reached).await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        testkit::stop_deployments_of_runner(&self.folder.path().join("runner"));
    }
}

/// Adds a variable `SECRET` to a lease.
pub(in crate::runner) fn with_secret(mut lease: Lease, value: &str) -> Lease {
    let variable = Variable { name: "SECRET".to_owned(), value: value.to_owned(), secret: true };
    lease.variables.push(variable);
    lease
}

/// A process that a test finds again: `sleep` with a duration that no other process has.
pub(in crate::runner) struct Helper(u32);

impl Helper {
    pub(in crate::runner) fn new() -> Self {
        let random = chassis::id::new().as_u128() % 1_000_000;
        Self(3_600 + u32::try_from(random).unwrap())
    }

    /// Shell command that starts it in the background.
    pub(in crate::runner) fn command(&self) -> String {
        format!("sleep {}.25 &", self.0)
    }

    /// The same for a process that ignores SIGTERM.
    pub(in crate::runner) fn stubborn_command(&self) -> String {
        format!("(trap '' TERM; exec sleep {}.25) &", self.0)
    }

    /// True while it runs on this machine.
    pub(in crate::runner) fn is_running(&self) -> bool {
        let line = format!("sleep\0{}.25\0", self.0);
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let mut lines =
            all.filter_map(|it| std::fs::read_to_string(it.path().join("cmdline")).ok());
        lines.any(|it| it == line)
    }

    /// Waits until it has ended.
    pub(in crate::runner) async fn ended(&self) {
        eventually("the end of the helper", async || (!self.is_running()).then_some(())).await;
    }
}
