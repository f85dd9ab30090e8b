//! The order in which operations of the project service lock rows: one for all of them, so that no two can
//! wait for each other (40P01).
//!
//! Every row of the scene is locked by the test, each on a connection of its own. An operation stops at the
//! first one; that one is noted and released, and so on until the operation has ended. The notes are the
//! order in which it locks, whatever the timing.

use std::future::Future;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use testkit::{Suite, eventually};

use crate::{
    hosting::{ENVIRONMENTS, PROJECTS, SERVERS, TASKS},
    pushes::{hook, push},
    tasks::{Hand, held, served},
    world::{merge, text},
};

/// Tables in the order in which their rows are locked, rows of one table by id; and which rows are watched.
const ORDER: [(&str, &str); 5] = [
    ("environment", "true"),
    ("task", "state in ('queued', 'running')"),
    ("project", "true"),
    ("server", "org_id is not null"),
    ("attachment", "true"),
];

/// A row that the test has locked.
struct Row {
    rank: (usize, String),
    pid: i32,
    connection: PgConnection,
}

/// Locks every row of the scene.
async fn hold_all(suite: &Suite) -> Vec<Row> {
    let mut rows = vec![];
    for (rank, (table, which)) in ORDER.iter().enumerate() {
        let ids = format!("select id::text from project.{table} where {which} order by id");
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

/// The connections of the test that somebody waits for.
async fn blockers(suite: &Suite) -> Vec<i32> {
    let waited_for = "select distinct unnest(pg_blocking_pids(pid)) from pg_stat_activity
                      where datname = current_database() and wait_event_type = 'Lock'
                        and application_name = 'project'";
    sqlx::query_scalar(waited_for).fetch_all(&suite.pool).await.unwrap()
}

/// Does something while all rows are held, and checks the order in which it wants them.
async fn watch<T>(suite: &Suite, what: &str, operation: impl Future<Output = T>) -> T {
    let mut rows = hold_all(suite).await;
    let mut wanted: Vec<(usize, String)> = vec![];
    tokio::pin!(operation);
    let answer = loop {
        let looked = async {
            eventually(&format!("the next lock, or the end, of {what}"), async || {
                let waited_for = blockers(suite).await;
                rows.iter().position(|it| waited_for.contains(&it.pid))
            })
            .await
        };
        tokio::select! {
            answer = &mut operation => break answer,
            row = looked => {
                let row = rows.swap_remove(row);
                wanted.push(row.rank);
                row.connection.close().await.unwrap();
            }
        }
    };
    for row in rows {
        row.connection.close().await.unwrap();
    }
    let named = |it: &(usize, String)| format!("{} {}", ORDER[it.0].0, it.1);
    let order: Vec<_> = wanted.iter().map(named).collect();
    assert!(wanted.is_sorted(), "{what} locks out of order: {order:#?}");
    assert!(!wanted.is_empty(), "{what} locks nothing, so the scene does not show its order");
    answer
}

/// A project with a few environments on a server that is the test.
struct Scene<'a> {
    suite: &'a Suite,
    hand: Hand,
}

impl Scene<'_> {
    /// Asks something of an environment and watches.
    async fn ask(&self, verb: &str, id: &str, more: Value) -> Value {
        let it = &self.hand.hosting;
        let method = match verb {
            "SetVariables" => format!("{ENVIRONMENTS}/{verb}"),
            _ => format!("{ENVIRONMENTS}/{verb}Environment"),
        };
        watch(self.suite, verb, it.owner().tell(&method, it.of(id, more))).await
    }

    /// Asks something of the project, its tasks or its servers and watches.
    async fn call(&self, method: &str, more: Value) -> Value {
        let it = &self.hand.hosting;
        let request =
            if method.starts_with(SERVERS) { it.world.here(more) } else { it.world.there(more) };
        watch(self.suite, method, it.owner().tell(method, request)).await
    }

    /// Takes the next task, says how far it is, and ends it.
    async fn work(&self, end: Value) {
        let lease = watch(self.suite, "LeaseTask", self.hand.lease()).await;
        let step = json!({ "progressPercent": 10, "logLines": ["x"] });
        watch(self.suite, "ReportProgress", self.hand.report(&lease, step)).await.unwrap();
        let what = format!("FinishTask of {}", lease["kind"]);
        watch(self.suite, &what, self.hand.finish(&lease, end)).await.unwrap();
    }

    /// A deployed environment.
    async fn deployed(&self, name: &str, kind: &str) -> String {
        let kind = format!("ENVIRONMENT_KIND_{kind}");
        let draft = json!({ "name": name, "kind": kind, "serverId": self.hand.server });
        let made = self.call(&format!("{ENVIRONMENTS}/CreateEnvironment"), draft).await;
        let id = text(&made["environment"]["id"]);
        self.ask("Deploy", &id, json!({})).await;
        self.work(served()).await;
        id
    }

    /// A failed task is repeated, and ends well.
    async fn again(&self, task: &Value) {
        self.work(json!({ "errorMessage": "no" })).await;
        self.call(&format!("{TASKS}/RetryTask"), json!({ "taskId": task["id"] })).await;
        self.work(served()).await;
    }
}

/// Environments by id, their tasks, the project, the server, extra services: every operation locks in this
/// order.
#[tokio::test(flavor = "multi_thread")]
async fn operations_lock_rows_in_one_order() {
    let suite = Suite::start().await;
    let it = Scene { suite: &suite, hand: Hand::new(&suite).await };
    it.hand.beat().await;
    let oldest = it.deployed("oldest", "DEVELOPMENT").await;
    let staging = it.deployed("staging", "STAGING").await;
    let production = it.deployed("production", "PRODUCTION").await;
    let resources = json!({ "cpuCores": 0.25, "memoryMb": 256, "diskGb": 2 });
    let update = json!({ "resources": resources, "updateMask": "resources" });
    it.ask("Update", &staging, update).await;
    let set = json!({ "set": [{ "name": "A", "value": "b", "secret": true }] });
    it.ask("SetVariables", &staging, set).await;
    for verb in ["Deploy", "Stop", "Start", "Restart", "Pause", "Resume", "Sync", "Rollback"] {
        it.ask(verb, &oldest, json!({})).await;
        let end = match verb {
            "Sync" => json!({ "observed": "OBSERVED_RUNNING" }),
            _ => served(),
        };
        it.work(end).await;
    }
    it.ask("Promote", &staging, json!({})).await;
    it.work(served()).await;

    // Copies: of an older one and of a newer one, into a new one and over another one, cancelled, repeated.
    let made = it.ask("Clone", &staging, json!({ "name": "copy" })).await;
    it.again(&made["task"]).await;
    let over = |name: &str, id: &str| json!({ "targetEnvironmentId": id, "confirmName": name });
    let made = it.ask("Clone", &production, over("oldest", &oldest)).await;
    it.again(&made["task"]).await;
    let made = it.ask("Clone", &oldest, over("staging", &staging)).await;
    let cancel = json!({ "taskId": made["task"]["id"] });
    it.call(&format!("{TASKS}/CancelTask"), cancel).await;

    services(&it, 4).await;
    runner(&it, &oldest, &staging).await;
    platform(&it).await;
    ends(&it, &production, &oldest).await;
    suite.finish().await;
}

/// Extra services.
async fn services(it: &Scene<'_>, environments: usize) {
    let method = |verb: &str| format!("project.v1.AttachmentService/{verb}");
    let made = it.call(&method("AttachService"), json!({ "serviceKey": "postgresql" })).await;
    for _ in 0..environments {
        it.work(json!({})).await;
    }
    let one = json!({ "attachmentId": made["attachment"]["id"] });
    let config = json!({ "config": [{ "key": "connections_max", "value": "7" }] });
    it.call(&method("UpdateAttachment"), merge(one.clone(), config)).await;
    for _ in 0..environments {
        it.work(json!({})).await;
    }
    it.call(&method("DetachService"), merge(one, json!({ "confirmKey": "postgresql" }))).await;
    for _ in 0..environments {
        it.work(json!({})).await;
    }
}

/// What runners say, and pushes.
async fn runner(it: &Scene<'_>, oldest: &str, staging: &str) {
    let report = |id: &str, observed: &str| json!({ "environmentId": id, "observed": observed });
    it.ask("Deploy", oldest, json!({})).await;
    let lease = it.hand.lease().await;
    // The newer one first, and a task that goes on.
    let beat = json!({ "tasks": [held(&lease)], "environments":
        [report(staging, "OBSERVED_FAILED"), report(oldest, "OBSERVED_FAILED")] });
    watch(it.suite, "Heartbeat", it.hand.say("Heartbeat", beat)).await.unwrap();
    it.hand.finish(&lease, served()).await.unwrap();
    let both = json!({ "environments":
        [report(staging, "OBSERVED_FAILED"), report(oldest, "OBSERVED_FAILED")] });
    watch(it.suite, "Heartbeat", it.hand.say("Heartbeat", both)).await.unwrap();
    for id in [oldest, staging] {
        it.ask("Deploy", id, json!({})).await;
        it.work(served()).await;
        let follow = json!({ "autoDeploy": true, "updateMask": "autoDeploy" });
        it.ask("Update", id, follow).await;
    }
    let hook = hook(&it.hand.hosting).await;
    let answer = watch(it.suite, "ReceivePush", push(it.suite, &hook, "main")).await;
    assert_eq!(answer.1, "2 deployed, 0 waiting");
    let waits = watch(it.suite, "ReceivePush", push(it.suite, &hook, "main")).await;
    assert_eq!(waits.1, "0 deployed, 2 waiting");
    for _ in 0..4 {
        it.work(served()).await;
    }
}

/// What the platform does.
async fn platform(it: &Scene<'_>) {
    let mut billing = it.suite.billing_of_projects();
    let org_id = it.hand.hosting.world.org.clone();
    let reason = api::project::PauseReason::Billing.into();
    let suspend = api::project::SuspendEnvironmentsRequest {
        org_id: org_id.clone(),
        reason,
        ..Default::default()
    };
    watch(it.suite, "SuspendEnvironments", billing.suspend_environments(suspend)).await.unwrap();
    for _ in 0..4 {
        it.work(json!({})).await;
    }
    let lift = api::project::LiftSuspensionsRequest { org_id, reason, ..Default::default() };
    watch(it.suite, "LiftSuspensions", billing.lift_suspensions(lift)).await.unwrap();
    for _ in 0..4 {
        it.work(served()).await;
    }
}

/// Servers and projects that change and go, and the end of the organization.
async fn ends(it: &Scene<'_>, production: &str, oldest: &str) {
    let world = &it.hand.hosting.world;
    let connect = world.here(json!({ "name": "us-1", "address": "us-1.example.com" }));
    let other = world.owner.tell(&format!("{SERVERS}/ConnectServer"), connect).await;
    let other = json!({ "serverId": other["server"]["id"] });
    let update = merge(other.clone(), json!({ "updateMask": "serverId" }));
    it.call(&format!("{PROJECTS}/UpdateProject"), update).await;
    let rename = merge(other.clone(), json!({ "name": "us-2", "updateMask": "name" }));
    it.call(&format!("{SERVERS}/UpdateServer"), rename).await;
    it.call(&format!("{SERVERS}/RemoveServer"), other).await;

    let destroy = json!({ "confirmName": "production", "allowProduction": true });
    it.ask("Destroy", production, destroy).await;
    it.work(json!({})).await;
    // A copy is on its way when everything ends.
    it.ask("Clone", oldest, json!({ "name": "late" })).await;
    let delete = world.here(json!({ "confirmName": "acme", "cascade": true }));
    let deleted = world.owner.tell("identity.v1.OrganizationService/DeleteOrganization", delete);
    let closed = "select count(*) from project.organization where deleted";
    react(it.suite, deleted, async || it.suite.count(closed).await == 1).await;
    for _ in 0..3 {
        it.work(json!({})).await;
    }
    let month = async { it.suite.clock.advance(chassis::clock::Duration::days(31)) };
    let left = "select count(*) from project.project";
    react(it.suite, month, async || it.suite.count(left).await == 0).await;
}

/// Lets something happen, holds the reaction to it before its first lock, and then watches it. As long as a
/// row is held, no event is delivered, so this one must be known before.
async fn react<T>(suite: &Suite, cause: impl Future<Output = T>, is_done: impl AsyncFn() -> bool) {
    let mut held = PgConnection::connect(&suite.database_url()).await.unwrap();
    held.execute("begin; lock table project.inbox in exclusive mode").await.unwrap();
    cause.await;
    let known = "select count(*) from project.deferred_event";
    eventually("the event", async || (suite.count(known).await == 1).then_some(())).await;
    let reaction = async {
        held.close().await.unwrap();
        eventually("the reaction", async || is_done().await.then_some(())).await;
    };
    watch(suite, "a reaction", reaction).await;
}
