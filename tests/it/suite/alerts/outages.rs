//! Causes outside of the suite: servers that are away, a missing runner, a lock, an old certificate.

use serde_json::{Value, json};
use sqlx::{Postgres, Transaction};
use tenantry::client::Client;
use testkit::{PASSWORD, Repository};
use time::Duration;

use super::installation::{Cause, Installation};
use crate::{
    suite::certificates::write_certificate,
    support::{
        fake_runner::{lease_ids, success_result},
        world::{merge, text},
    },
};

/// The mail server does not accept connections.
pub(super) struct MailServerStopped;

impl Cause for MailServerStopped {
    const ALERTS: &[&str] = &["TenantryMailsDelayed"];

    async fn begin(installation: &mut Installation) -> Self {
        installation.smtp.stop().await;
        let register = json!({ "email": "guest@example.com", "password": PASSWORD });
        installation.owner.call_ok("identity.v1.UserService/Register", register).await;
        Self
    }

    async fn end(self, installation: &mut Installation) {
        installation.smtp.restart().await;
    }
}

/// A server has a task, and no runner takes it.
pub(super) struct RunnerAbsent {
    /// Client with the token of the server.
    runner: Client,
    /// Repository of the project.
    _repository: Repository,
}

impl Cause for RunnerAbsent {
    const ALERTS: &[&str] = &["TenantryTasksWaiting"];

    async fn begin(installation: &mut Installation) -> Self {
        let call = async |method: &str, more: Value| {
            let request = installation.org_request(more);
            installation.owner.call_ok(&format!("project.v1.{method}"), request).await
        };
        let repository = Repository::new("one");
        let create = json!({ "name": "Shop", "repositoryUrl": repository.url() });
        let created = call("ProjectService/CreateProject", create).await;
        let project = json!({ "projectId": created["project"]["id"] });
        let connect = json!({
            "name": "eu-1", "address": "eu-1.example.com",
            "capacity": { "cpuCores": 2, "memoryMb": 4096, "diskGb": 40 },
        });
        let connected = call("ServerService/ConnectServer", connect).await;
        let runner = installation.suite.client.with_token(&text(&connected["agentToken"]));
        let heartbeat = json!({ "runner": "eu-1" });
        runner.call_json("project.v1.RunnerService/Heartbeat", heartbeat).await.unwrap();
        let create = json!({ "name": "main", "serverId": connected["server"]["id"] });
        let create = merge(project.clone(), create);
        let created = call("EnvironmentService/CreateEnvironment", create).await;
        let deploy = merge(project, json!({ "environmentId": created["environment"]["id"] }));
        call("EnvironmentService/DeployEnvironment", deploy).await;
        Self { runner, _repository: repository }
    }

    async fn end(self, _: &mut Installation) {
        let call = async |method: &str, more: Value| {
            let request = merge(json!({ "runner": "eu-1" }), more);
            let method = format!("project.v1.RunnerService/{method}");
            self.runner.call_json(&method, request).await.unwrap()
        };
        let leased = call("LeaseTask", json!({})).await;
        let finish = merge(lease_ids(&leased["lease"]), success_result());
        call("FinishTask", finish).await;
    }
}

/// Somebody has renamed a table: the calls that read it fail.
pub(super) struct TableMissing;

impl Cause for TableMissing {
    const ALERTS: &[&str] = &["TenantryCallErrors"];

    async fn begin(installation: &mut Installation) -> Self {
        installation.execute("alter table project.git_connection rename to renamed").await;
        Self
    }

    async fn end(self, installation: &mut Installation) {
        installation.execute("alter table project.renamed rename to git_connection").await;
    }
}

/// A transaction that does not end has locked the table of projects: the calls that read it wait for two
/// seconds. They answer ABORTED, which is no error of the server.
pub(super) struct TableLocked(Transaction<'static, Postgres>);

impl Cause for TableLocked {
    const ALERTS: &[&str] = &["TenantryCallsSlow"];

    async fn begin(installation: &mut Installation) -> Self {
        let mut transaction = installation.pool.begin().await.unwrap();
        let lock = "lock table project.project in access exclusive mode";
        sqlx::raw_sql(lock).execute(&mut *transaction).await.unwrap();
        Self(transaction)
    }

    async fn end(self, _: &mut Installation) {
        self.0.rollback().await.unwrap();
    }
}

/// A certificate expires within 30 days.
pub(super) struct CertificateExpiring;

impl Cause for CertificateExpiring {
    const ALERTS: &[&str] = &["TenantryCertificateExpires"];

    async fn begin(installation: &mut Installation) -> Self {
        write_certificate(installation.second.folder(), Duration::days(29));
        Self
    }

    async fn end(self, installation: &mut Installation) {
        write_certificate(installation.second.folder(), Duration::days(365));
    }
}

/// NATS is away, and with it the delivery of events.
pub(super) struct NatsStopped;

impl Cause for NatsStopped {
    const ALERTS: &[&str] = &["TenantryEventsDelayed", "TenantryJobFails"];

    async fn begin(installation: &mut Installation) -> Self {
        installation.nats.kill();
        installation.create_team(&installation.org).await;
        Self
    }

    async fn end(self, installation: &mut Installation) {
        installation.nats.restart();
    }
}

/// A process has ended.
pub(super) struct ServiceStopped;

impl Cause for ServiceStopped {
    const ALERTS: &[&str] = &["TenantryDown"];

    async fn begin(installation: &mut Installation) -> Self {
        installation.second.kill();
        Self
    }

    async fn end(self, installation: &mut Installation) {
        installation.second.run();
    }
}
