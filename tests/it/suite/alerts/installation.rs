//! An installation that Prometheus watches: the suite with NATS and a mail server, and a second process.

use std::path::Path;

use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use testkit::{
    Alertmanager, Nats, Person, Process, Prometheus, ReservedPort, Smtp, eventually,
    stop_deployments,
};
use time::Duration;
use tokio::task::JoinSet;

use super::{deliveries::Deliveries, rules};
use crate::{
    notification::smtp::register,
    suite::certificates::write_certificate,
    support::{suite_process::SuiteProcess, world::merge},
};

/// A cause of alerts, from `begin` to `end`.
pub(super) trait Cause: Sized {
    /// Names of the alerts.
    const ALERTS: &[&str];
    async fn begin(installation: &mut Installation) -> Self;
    async fn end(self, installation: &mut Installation);
}

/// The installation.
pub(super) struct Installation {
    pub(super) suite: SuiteProcess,
    pub(super) nats: Nats,
    pub(super) smtp: Smtp,
    pub(super) second: SecondProcess,
    /// Connections to the database of the suite, as a superuser.
    pub(super) pool: PgPool,
    pub(super) owner: Person,
    /// Organization of the owner.
    pub(super) org: String,
    pub(super) prometheus: Prometheus,
    pub(super) deliveries: Deliveries,
    /// Calls during the whole test.
    _calls: JoinSet<()>,
    _alertmanager: Alertmanager,
    _health_port: ReservedPort,
}

impl Installation {
    /// Starts everything, and waits until Prometheus has scraped both processes.
    pub(super) async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (nats, smtp) = (Nats::start(), Smtp::start().await);
        let health_port = ReservedPort::new();
        let health = format!("127.0.0.1:{}", health_port.number());
        let flags = vec![
            format!("--nats-url={}", nats.url()),
            format!("--smtp-url={}", smtp.url()),
            format!("--health-listen={health}"),
        ];
        let second = SecondProcess::start();
        let suite = SuiteProcess::start_with(flags).await;
        let deliveries = Deliveries::start().await;
        let alertmanager = Alertmanager::start(&deliveries.url()).await;
        let targets = [health, second.health()];
        let prometheus =
            Prometheus::start(&targets, &rules::with_short_times(), &alertmanager).await;
        let owner = register(&suite.client, &smtp, "owner@example.com").await;
        let org = owner.create_organization("acme").await.unwrap();
        let mut calls = JoinSet::new();
        calls.spawn(call_repeatedly(owner.clone(), org.clone()));
        let pool = suite.pool().await;
        eventually("the scrape of both processes", async || {
            let up = prometheus.query("up == 1").await;
            (up.ok()?.len() == 2).then_some(())
        })
        .await;
        Self {
            suite,
            nats,
            smtp,
            second,
            pool,
            owner,
            org,
            prometheus,
            deliveries,
            _calls: calls,
            _alertmanager: alertmanager,
            _health_port: health_port,
        }
    }

    /// Creates another organization of the owner; returns its id.
    pub(super) async fn organization(&self, slug: &str) -> String {
        self.owner.create_organization(slug).await.unwrap()
    }

    /// Creates a team, which publishes an event.
    pub(super) async fn create_team(&self, org: &str) {
        let name = chassis::id::new().to_string();
        let create = json!({ "orgId": org, "name": name });
        self.owner.call_ok("identity.v1.TeamService/CreateTeam", create).await;
    }

    /// A JSON request about the organization.
    pub(super) fn org_request(&self, more: Value) -> Value {
        merge(json!({ "orgId": self.org }), more)
    }

    /// Runs SQL statements.
    pub(super) async fn execute(&self, statements: &str) {
        let statements = sqlx::AssertSqlSafe(statements.to_owned());
        sqlx::raw_sql(statements).execute(&self.pool).await.unwrap();
    }

    /// Waits until the end of every alert is delivered. Mails that wait for a back-off, or to be gathered
    /// with others, are sent at once, because that takes longer than the short times of the rules.
    pub(super) async fn wait_for_quiet(&self) {
        tokio::select! {
            () = self.deliveries.wait_for_quiet() => {}
            () = self.send_mails() => {}
        }
    }

    /// Makes the waiting mails due, once a second.
    async fn send_mails(&self) {
        let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
        loop {
            ticks.tick().await;
            for service in ["identity", "invitation"] {
                let send = "update {service}.mail set due_at = now() where sent_at is null";
                self.execute(&send.replace("{service}", service)).await;
            }
        }
    }

    /// Runs `tenantry admin` against the suite; returns what it prints.
    pub(super) fn admin(&self, arguments: &[&str]) -> String {
        let data_dir = self.suite.data_dir().to_string_lossy();
        let output =
            Process::run("tenantry", &[&["admin", "--data-dir", &data_dir], arguments].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Stops the processes.
    pub(super) fn stop(self) {
        self.suite.stop();
        self.second.stop();
    }
}

/// Lists projects and connections, at most five times a second.
async fn call_repeatedly(owner: Person, org: String) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
    loop {
        ticks.tick().await;
        for method in ["ProjectService/ListProjects", "GitConnectionService/ListGitConnections"] {
            // Some calls fail during the test.
            let _ = owner.call(&format!("project.v1.{method}"), json!({ "orgId": org })).await;
        }
    }
}

/// Another installation in one process, with a certificate.
pub(super) struct SecondProcess {
    folder: TempDir,
    health_port: ReservedPort,
    /// `None` while it is stopped.
    process: Option<Process>,
}

impl SecondProcess {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        write_certificate(folder.path(), Duration::days(365));
        let mut second = Self { folder, health_port: ReservedPort::new(), process: None };
        second.run();
        second
    }

    /// Address of its health port.
    fn health(&self) -> String {
        format!("127.0.0.1:{}", self.health_port.number())
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the stopped process again.
    pub(super) fn run(&mut self) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let arguments = [
            format!("--data-dir={}", path("data")),
            "--listen=127.0.0.1:0".to_owned(),
            format!("--health-listen={}", self.health()),
            format!("--tls-cert={}", path("tls.pem")),
            format!("--tls-key={}", path("tls.key")),
            format!("--tls-ca={}", path("ca.pem")),
            "--allow-weak-isolation=true".to_owned(),
            // The newest check of all processes counts, and this one has a log of its own.
            "--fsck-interval-s=0".to_owned(),
        ];
        self.process =
            Some(Process::start("tenantry", &arguments, &self.folder.path().join("log")));
    }

    pub(super) fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    fn stop(mut self) {
        let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        assert!(self.process.take().unwrap().stop(), "{}", log());
        stop_deployments(&self.folder.path().join("data"));
    }
}
