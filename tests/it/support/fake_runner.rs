//! A connected server without a runner: the test itself calls `RunnerService`.

use serde_json::{Value, json};
use tenantry::client::Client;
use testkit::Suite;

use super::{
    hosting::{Hosting, RUNNER, SERVERS},
    world::{merge, text},
};

/// A connected server of the organization, whose tasks the test leases and finishes.
pub(crate) struct FakeRunner {
    pub(crate) hosting: Hosting,
    pub(crate) server: String,
    pub(crate) token: String,
    client: Client,
}

impl FakeRunner {
    pub(crate) async fn new(suite: &Suite) -> Self {
        let hosting = Hosting::new(suite).await;
        let connect = hosting.world.org_request(json!({
            "name": "eu-1", "address": "eu-1.example.com",
            "capacity": { "cpuCores": 2, "memoryMb": 4096, "diskGb": 40 },
        }));
        let connected = hosting.owner().call_ok(&format!("{SERVERS}/ConnectServer"), connect).await;
        let server = text(&connected["server"]["id"]);
        let token = text(&connected["agentToken"]);
        let client = suite.client.with_token(&token);
        Self { hosting, server, token, client }
    }

    /// Calls a method of `RunnerService` with the agent token; an error is its reason.
    pub(crate) async fn call(&self, method: &str, more: Value) -> Result<Value, String> {
        let request = merge(json!({ "runner": "fake" }), more);
        let answer = self.client.call_json(&format!("{RUNNER}/{method}"), request).await;
        answer.map_err(|error| error.reason)
    }

    pub(crate) async fn heartbeat(&self) -> Value {
        self.call("Heartbeat", json!({})).await.unwrap()
    }

    /// Creates an environment on this server; returns its id.
    pub(crate) async fn environment(&self, name: &str) -> String {
        self.hosting.create_environment(json!({ "name": name, "serverId": self.server })).await
    }

    /// Leases the next task; null if none is queued.
    pub(crate) async fn lease_task(&self) -> Value {
        self.call("LeaseTask", json!({})).await.unwrap()["lease"].clone()
    }

    pub(crate) async fn report_progress(
        &self,
        lease: &Value,
        more: Value,
    ) -> Result<Value, String> {
        self.call("ReportProgress", merge(lease_ids(lease), more)).await
    }

    pub(crate) async fn finish_task(&self, lease: &Value, more: Value) -> Result<Value, String> {
        self.call("FinishTask", merge(lease_ids(lease), more)).await
    }
}

/// Request fields with the task id and the lease id of a lease.
pub(crate) fn lease_ids(lease: &Value) -> Value {
    json!({ "taskId": lease["taskId"], "leaseId": lease["leaseId"] })
}

/// Fields of `FinishTask` for a deployment that succeeded.
pub(crate) fn success_result() -> Value {
    json!({ "commit": "0a1b2c3", "url": "http://127.0.0.1:1" })
}
