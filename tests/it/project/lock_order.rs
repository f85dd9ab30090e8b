//! Lock order of the project service: all operations lock rows in the same order, so that no two can deadlock
//! (40P01).
//!
//! The test locks every row of the scene, each on its own connection. An operation blocks at the first row
//! that it locks; the test records that row and releases it, and repeats this until the operation ends. The
//! records are the lock order of the operation, independent of timing.

use std::future::Future;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use testkit::{Suite, eventually};

use crate::{
    project::push_webhook::{push, rotate_hook},
    support::{
        fake_runner::{FakeRunner, lease_ids, success_result},
        hosting::{ENVIRONMENTS, PROJECTS, SERVERS, TASKS},
        world::{merge, text},
    },
};

/// Tables in their lock order, with a condition on the rows that the test locks. Rows of one table are locked
/// by id.
const ORDER: [(&str, &str); 5] = [
    ("environment", "true"),
    ("task", "state in ('queued', 'running')"),
    ("project", "true"),
    ("server", "org_id is not null"),
    ("addon", "true"),
];

/// A row that the test has locked, with its position in the lock order: table and id.
struct Row {
    rank: (usize, String),
    pid: i32,
    connection: PgConnection,
}

/// Locks every row of the scene.
async fn lock_all(suite: &Suite) -> Vec<Row> {
    let mut rows = vec![];
    for (rank, (table, condition)) in ORDER.iter().enumerate() {
        let ids = format!("select id::text from project.{table} where {condition} order by id");
        let ids = sqlx::query_scalar::<_, String>(AssertSqlSafe(ids));
        for id in ids.fetch_all(&suite.pool).await.unwrap() {
            let mut connection = PgConnection::connect(&suite.database_url()).await.unwrap();
            let lock = format!("begin; select from project.{table} where id = '{id}' for update");
            connection.execute(AssertSqlSafe(lock)).await.unwrap();
            let pid = sqlx::query_scalar("select pg_backend_pid()");
            let pid = pid.fetch_one(&mut connection).await.unwrap();
            rows.push(Row { rank: (rank, id), pid, connection });
        }
    }
    rows
}

/// Backend pids of the test whose locks block the project service.
async fn blockers(suite: &Suite) -> Vec<i32> {
    let blocking = "select distinct unnest(pg_blocking_pids(pid)) from pg_stat_activity
                      where datname = current_database() and wait_event_type = 'Lock'
                        and application_name = 'project'";
    sqlx::query_scalar(blocking).fetch_all(&suite.pool).await.unwrap()
}

/// Runs an operation while all rows are locked, and checks its lock order.
async fn check_order<T>(suite: &Suite, name: &str, operation: impl Future<Output = T>) -> T {
    let mut rows = lock_all(suite).await;
    let mut locked: Vec<(usize, String)> = vec![];
    tokio::pin!(operation);
    let answer = loop {
        let blocked_at = async {
            eventually(&format!("the next lock or the end of {name}"), async || {
                let blocking = blockers(suite).await;
                rows.iter().position(|row| blocking.contains(&row.pid))
            })
            .await
        };
        tokio::select! {
            answer = &mut operation => break answer,
            row = blocked_at => {
                let row = rows.swap_remove(row);
                locked.push(row.rank);
                row.connection.close().await.unwrap();
            }
        }
    };
    for row in rows {
        row.connection.close().await.unwrap();
    }
    let display = |(table, id): &(usize, String)| format!("{} {id}", ORDER[*table].0);
    let order: Vec<_> = locked.iter().map(display).collect();
    assert!(locked.is_sorted(), "{name} locks out of order: {order:#?}");
    assert!(!locked.is_empty(), "{name} locks no row of the scene");
    answer
}

/// A project with some environments on the server of a fake runner.
struct Scene<'a> {
    suite: &'a Suite,
    runner: FakeRunner,
}

impl Scene<'_> {
    /// Calls a method of an environment and checks its lock order.
    async fn call_environment(&self, verb: &str, id: &str, more: Value) -> Value {
        let hosting = &self.runner.hosting;
        let method = match verb {
            "SetVariables" => format!("{ENVIRONMENTS}/{verb}"),
            _ => format!("{ENVIRONMENTS}/{verb}Environment"),
        };
        check_order(self.suite, verb, hosting.owner().call_ok(&method, hosting.request(id, more)))
            .await
    }

    /// Calls another method of the project service and checks its lock order.
    async fn call(&self, method: &str, more: Value) -> Value {
        // The server stays healthy, however slow the machine is.
        self.runner.heartbeat().await;
        let hosting = &self.runner.hosting;
        let request = if method.starts_with(SERVERS) {
            hosting.world.org_request(more)
        } else {
            hosting.world.project_request(more)
        };
        check_order(self.suite, method, hosting.owner().call_ok(method, request)).await
    }

    /// Leases the next task, reports its progress and finishes it with a result.
    async fn run_next_task(&self, result: Value) {
        let lease = check_order(self.suite, "LeaseTask", self.runner.lease_task()).await;
        let step = json!({ "progressPercent": 10, "logLines": ["x"] });
        check_order(self.suite, "ReportProgress", self.runner.report_progress(&lease, step))
            .await
            .unwrap();
        let name = format!("FinishTask of {}", lease["kind"]);
        check_order(self.suite, &name, self.runner.finish_task(&lease, result)).await.unwrap();
    }

    /// Creates and deploys an environment; returns its id.
    async fn deployed(&self, name: &str, kind: &str) -> String {
        let kind = format!("ENVIRONMENT_KIND_{kind}");
        let create = json!({ "name": name, "kind": kind, "serverId": self.runner.server });
        let created = self.call(&format!("{ENVIRONMENTS}/CreateEnvironment"), create).await;
        let id = text(&created["environment"]["id"]);
        self.call_environment("Deploy", &id, json!({})).await;
        self.run_next_task(success_result()).await;
        id
    }

    /// Lets a task fail, retries it, and lets it succeed.
    async fn fail_and_retry(&self, task: &Value) {
        self.run_next_task(json!({ "errorMessage": "no" })).await;
        self.call(&format!("{TASKS}/RetryTask"), json!({ "taskId": task["id"] })).await;
        self.run_next_task(success_result()).await;
    }
}

/// Every operation locks environments by id, then their tasks, the project, the server and the add-ons.
#[tokio::test(flavor = "multi_thread")]
async fn operations_lock_rows_in_one_order() {
    let suite = Suite::start().await;
    let scene = Scene { suite: &suite, runner: FakeRunner::new(&suite).await };
    scene.runner.heartbeat().await;
    let oldest = scene.deployed("oldest", "DEVELOPMENT").await;
    let staging = scene.deployed("staging", "STAGING").await;
    let production = scene.deployed("production", "PRODUCTION").await;
    let resources = json!({ "cpuCores": 0.25, "memoryMb": 256, "diskGb": 2 });
    let update = json!({ "resources": resources, "updateMask": "resources" });
    scene.call_environment("Update", &staging, update).await;
    let set = json!({ "set": [{ "name": "A", "value": "b", "secret": true }] });
    scene.call_environment("SetVariables", &staging, set).await;
    for verb in ["Deploy", "Stop", "Start", "Restart", "Pause", "Resume", "Sync", "Rollback"] {
        scene.call_environment(verb, &oldest, json!({})).await;
        let result = match verb {
            "Sync" => json!({ "observed": "OBSERVED_RUNNING" }),
            _ => success_result(),
        };
        scene.run_next_task(result).await;
    }
    scene.call_environment("Promote", &staging, json!({})).await;
    scene.run_next_task(success_result()).await;

    // Copies of an older and of a newer environment, into a new one and over an existing one, cancelled and
    // retried.
    let cloned = scene.call_environment("Clone", &staging, json!({ "name": "copy" })).await;
    scene.fail_and_retry(&cloned["task"]).await;
    let overwrite =
        |name: &str, id: &str| json!({ "targetEnvironmentId": id, "confirmName": name });
    let cloned = scene.call_environment("Clone", &production, overwrite("oldest", &oldest)).await;
    scene.fail_and_retry(&cloned["task"]).await;
    let cloned = scene.call_environment("Clone", &oldest, overwrite("staging", &staging)).await;
    let cancel = json!({ "taskId": cloned["task"]["id"] });
    scene.call(&format!("{TASKS}/CancelTask"), cancel).await;

    check_addons(&scene, 4).await;
    check_runner_calls(&scene, &oldest, &staging).await;
    check_suspension(&scene).await;
    check_deletions(&scene, &production, &oldest).await;
    suite.finish().await;
}

/// Add-ons: attach, update, detach.
async fn check_addons(scene: &Scene<'_>, environments: usize) {
    let method = |verb: &str| format!("project.v1.AddonService/{verb}");
    let attached = scene.call(&method("AttachAddon"), json!({ "addonKey": "postgresql" })).await;
    for _ in 0..environments {
        scene.run_next_task(json!({})).await;
    }
    let by_id = json!({ "addonId": attached["addon"]["id"] });
    let config = json!({ "config": [{ "key": "connections_max", "value": "7" }] });
    scene.call(&method("UpdateAddon"), merge(by_id.clone(), config)).await;
    for _ in 0..environments {
        scene.run_next_task(json!({})).await;
    }
    scene.call(&method("DetachAddon"), merge(by_id, json!({ "confirmKey": "postgresql" }))).await;
    for _ in 0..environments {
        scene.run_next_task(json!({})).await;
    }
}

/// Heartbeats of runners, and pushes.
async fn check_runner_calls(scene: &Scene<'_>, oldest: &str, staging: &str) {
    let report = |id: &str, observed: &str| json!({ "environmentId": id, "observed": observed });
    scene.call_environment("Deploy", oldest, json!({})).await;
    let lease = scene.runner.lease_task().await;
    // Reports in the opposite order of ids, during a task.
    let beat = json!({ "tasks": [lease_ids(&lease)], "environments":
        [report(staging, "OBSERVED_FAILED"), report(oldest, "OBSERVED_FAILED")] });
    check_order(scene.suite, "Heartbeat", scene.runner.call("Heartbeat", beat)).await.unwrap();
    scene.runner.finish_task(&lease, success_result()).await.unwrap();
    let both = json!({ "environments":
        [report(staging, "OBSERVED_FAILED"), report(oldest, "OBSERVED_FAILED")] });
    check_order(scene.suite, "Heartbeat", scene.runner.call("Heartbeat", both)).await.unwrap();
    for id in [oldest, staging] {
        scene.call_environment("Deploy", id, json!({})).await;
        scene.run_next_task(success_result()).await;
        let follow = json!({ "autoDeploy": true, "updateMask": "autoDeploy" });
        scene.call_environment("Update", id, follow).await;
    }
    let hook = rotate_hook(&scene.runner.hosting).await;
    let answer = check_order(scene.suite, "ReceivePush", push(scene.suite, &hook, "main")).await;
    assert_eq!(answer.1, "2 deployed, 0 waiting");
    let waits = check_order(scene.suite, "ReceivePush", push(scene.suite, &hook, "main")).await;
    assert_eq!(waits.1, "0 deployed, 2 waiting");
    for _ in 0..4 {
        scene.run_next_task(success_result()).await;
    }
}

/// Suspension of environments by the billing system.
async fn check_suspension(scene: &Scene<'_>) {
    let mut billing = scene.suite.billing_environments();
    let org_id = scene.runner.hosting.world.org.clone();
    let reason = api::project::PauseReason::Billing.into();
    let suspend = api::project::SuspendEnvironmentsRequest {
        org_id: org_id.clone(),
        reason,
        ..Default::default()
    };
    check_order(scene.suite, "SuspendEnvironments", billing.suspend_environments(suspend))
        .await
        .unwrap();
    for _ in 0..4 {
        scene.run_next_task(json!({})).await;
    }
    let lift = api::project::LiftSuspensionsRequest { org_id, reason, ..Default::default() };
    check_order(scene.suite, "LiftSuspensions", billing.lift_suspensions(lift)).await.unwrap();
    for _ in 0..4 {
        scene.run_next_task(success_result()).await;
    }
}

/// Changes and removal of servers, destruction of environments, deletion and purge of the organization.
async fn check_deletions(scene: &Scene<'_>, production: &str, oldest: &str) {
    let world = &scene.runner.hosting.world;
    let connect = world.org_request(json!({ "name": "us-1", "address": "us-1.example.com" }));
    let other = world.owner.call_ok(&format!("{SERVERS}/ConnectServer"), connect).await;
    let other = json!({ "serverId": other["server"]["id"] });
    let update = merge(other.clone(), json!({ "updateMask": "serverId" }));
    scene.call(&format!("{PROJECTS}/UpdateProject"), update).await;
    let rename = merge(other.clone(), json!({ "name": "us-2", "updateMask": "name" }));
    scene.call(&format!("{SERVERS}/UpdateServer"), rename).await;
    scene.call(&format!("{SERVERS}/RemoveServer"), other).await;

    let destroy = json!({ "confirmName": "production", "allowProduction": true });
    scene.call_environment("Destroy", production, destroy).await;
    scene.run_next_task(json!({})).await;
    // A copy is pending during the deletion.
    scene.call_environment("Clone", oldest, json!({ "name": "late" })).await;
    let delete = world.org_request(json!({ "confirmName": "acme", "cascade": true }));
    let deleted = world.owner.call_ok("identity.v1.OrganizationService/DeleteOrganization", delete);
    let deleted_orgs = "select count(*) from project.organization where deleted";
    check_reaction(scene.suite, deleted, async || scene.suite.count(deleted_orgs).await == 1).await;
    for _ in 0..3 {
        scene.run_next_task(json!({})).await;
    }
    let month = async { scene.suite.clock.advance(chassis::clock::Duration::days(31)) };
    let projects = "select count(*) from project.project";
    check_reaction(scene.suite, month, async || scene.suite.count(projects).await == 0).await;
}

/// Triggers an event, blocks the reaction to it before its first lock, and checks the lock order of the
/// reaction. Locked rows block the delivery of events too, so the event must be delivered before the rows are
/// locked.
async fn check_reaction<T>(
    suite: &Suite,
    cause: impl Future<Output = T>,
    is_done: impl AsyncFn() -> bool,
) {
    let mut inbox_lock = PgConnection::connect(&suite.database_url()).await.unwrap();
    inbox_lock.execute("begin; lock table project.inbox in exclusive mode").await.unwrap();
    cause.await;
    let deferred = "select count(*) from project.deferred_event";
    eventually("the event", async || (suite.count(deferred).await == 1).then_some(())).await;
    let reaction = async {
        inbox_lock.close().await.unwrap();
        eventually("the reaction", async || is_done().await.then_some(())).await;
    };
    check_order(suite, "a reaction", reaction).await;
}
