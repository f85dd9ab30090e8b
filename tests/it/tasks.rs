//! Tasks: one at a time, led by a runner that the test is itself, from their queue to their end.

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::{
    hosting::{ENVIRONMENTS, Hosting, RUNNER, SERVERS, TASKS},
    world::{merge, text},
};

/// A server of the organization whose runner is the test.
pub(crate) struct Hand {
    pub(crate) hosting: Hosting,
    pub(crate) server: String,
    pub(crate) token: String,
    client: tenantry::client::Client,
}

impl Hand {
    pub(crate) async fn new(suite: &Suite) -> Self {
        let hosting = Hosting::new(suite).await;
        let connect = hosting.world.here(json!({
            "name": "eu-1", "address": "eu-1.example.com",
            "capacity": { "cpuCores": 2, "memoryMb": 4096, "diskGb": 40 },
        }));
        let made = hosting.owner().tell(&format!("{SERVERS}/ConnectServer"), connect).await;
        let (server, token) = (text(&made["server"]["id"]), text(&made["agentToken"]));
        let client = suite.client.with_token(&token);
        Self { hosting, server, token, client }
    }

    /// Says something as the runner.
    pub(crate) async fn say(&self, verb: &str, more: Value) -> Result<Value, String> {
        let message = merge(json!({ "runner": "hand" }), more);
        self.client.ask(&format!("{RUNNER}/{verb}"), message).await.map_err(|it| it.reason)
    }

    pub(crate) async fn beat(&self) -> Value {
        self.say("Heartbeat", json!({})).await.unwrap()
    }

    /// An environment on this server.
    pub(crate) async fn environment(&self, name: &str) -> String {
        self.hosting.environment_with(json!({ "name": name, "serverId": self.server })).await
    }

    /// Takes the next task.
    pub(crate) async fn lease(&self) -> Value {
        self.say("LeaseTask", json!({})).await.unwrap()["lease"].clone()
    }

    pub(crate) async fn report(&self, lease: &Value, more: Value) -> Result<Value, String> {
        self.say("ReportProgress", merge(held(lease), more)).await
    }

    pub(crate) async fn finish(&self, lease: &Value, more: Value) -> Result<Value, String> {
        self.say("FinishTask", merge(held(lease), more)).await
    }
}

pub(crate) fn held(lease: &Value) -> Value {
    json!({ "taskId": lease["taskId"], "leaseId": lease["leaseId"] })
}

pub(crate) fn served() -> Value {
    json!({ "commit": "0a1b2c3", "url": "http://127.0.0.1:1" })
}

/// PE-24, PE-25, PE-34, PE-35: a task is queued at once, is alone, goes forward only, and is told step by
/// step.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_from_its_queue_to_its_end() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
    hand.beat().await;
    let id = hand.environment("main").await;
    let task = it.queue("Deploy", &id, json!({})).await;
    assert_eq!(it.task(&task).await["state"], "TASK_STATE_QUEUED");
    let busy =
        it.owner().ask(&format!("{ENVIRONMENTS}/StopEnvironment"), it.of(&id, json!({}))).await;
    let busy = busy.unwrap_err();
    assert_eq!(busy.reason, "TASK_IN_PROGRESS");
    assert!(busy.to_string().contains(&task), "it names the task: {busy}");

    let lease = hand.lease().await;
    assert_eq!((&lease["taskId"], &lease["branch"]), (&json!(task), &json!("main")));
    assert_eq!(hand.lease().await, Value::Null, "nobody else gets it");
    let step = json!({ "progressPercent": 60, "currentStep": "build", "logLines": ["a", "b"],
        "totalSteps": 5 });
    hand.report(&lease, step).await.unwrap();
    hand.report(&lease, json!({ "progressPercent": 20, "logLines": ["c"] })).await.unwrap();
    let now = it.task(&task).await;
    assert_eq!((&now["progressPercent"], &now["currentStep"]), (&json!(60), &json!("build")));
    assert_eq!(now["logLines"], json!(["a", "b", "c"]));
    hand.finish(&lease, served()).await.unwrap();
    assert_eq!(it.task(&task).await["progressPercent"], 100);
    assert_eq!(it.state(&id).await, "RUNNING");
    assert_eq!(hand.finish(&lease, served()).await.unwrap_err(), "LEASE_LOST");
    suite.finish().await;
}

/// PE-31: what waits is cancelled at once; a deployment that goes on is let go of by its runner; the
/// environment is as it was before. What has ended cannot be cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_cancelled() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
    hand.beat().await;
    let id = hand.environment("main").await;
    let cancel = async |task: &str| {
        let cancel = it.world.there(json!({ "taskId": task }));
        it.owner().ask(&format!("{TASKS}/CancelTask"), cancel).await.map_err(|it| it.reason)
    };
    let task = it.queue("Deploy", &id, json!({})).await;
    assert_eq!(cancel(&task).await.unwrap()["task"]["state"], "TASK_STATE_CANCELLED");
    assert_eq!(it.state(&id).await, "PENDING");
    assert_eq!(cancel(&task).await.unwrap_err(), "INVALID_STATE");

    let task = it.queue("Deploy", &id, json!({})).await;
    let lease = hand.lease().await;
    let asked = cancel(&task).await.unwrap();
    assert_eq!(
        (&asked["task"]["state"], &asked["task"]["cancelRequested"]),
        (&json!("TASK_STATE_RUNNING"), &json!(true))
    );
    assert_eq!(hand.report(&lease, json!({})).await.unwrap()["cancel"], true);
    let beat = json!({ "tasks": [held(&lease)] });
    assert_eq!(hand.say("Heartbeat", beat).await.unwrap()["cancelledTaskIds"], json!([task]));
    hand.finish(&lease, json!({ "cancelled": true })).await.unwrap();
    assert_eq!(
        (it.task(&task).await["state"].clone(), it.state(&id).await),
        (json!("TASK_STATE_CANCELLED"), "PENDING".to_owned())
    );
    suite.finish().await;
}

/// PE-31, PE-32, PE-40: a copy that is cancelled, or fails, lets its source go on; repeated, it holds it
/// again, and there must still be one.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_does_not_come_lets_its_source_go_on() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
    hand.beat().await;
    let source = hand.environment("main").await;
    it.queue("Deploy", &source, json!({})).await;
    hand.finish(&hand.lease().await, served()).await.unwrap();
    let ask = async |verb: &str, task: &str| {
        let ask = it.world.there(json!({ "taskId": task }));
        it.owner().ask(&format!("{TASKS}/{verb}Task"), ask).await.map_err(|it| it.reason)
    };
    let task = it.queue("Clone", &source, json!({ "name": "one" })).await;
    assert_eq!(it.state(&source).await, "CLONING");
    ask("Cancel", &task).await.unwrap();
    assert_eq!(it.state(&source).await, "RUNNING");

    let task = it.queue("Clone", &source, json!({ "name": "two" })).await;
    hand.finish(&hand.lease().await, json!({ "errorMessage": "no" })).await.unwrap();
    assert_eq!(
        (it.task(&task).await["state"].clone(), it.state(&source).await),
        (json!("TASK_STATE_FAILED"), "RUNNING".to_owned())
    );
    let again = ask("Retry", &task).await.unwrap();
    assert_eq!(it.state(&source).await, "CLONING");
    ask("Cancel", &text(&again["task"]["id"])).await.unwrap();
    let gone = json!({ "confirmName": "main" });
    it.queue("Destroy", &source, gone).await;
    hand.finish(&hand.lease().await, json!({})).await.unwrap();
    assert_eq!(ask("Retry", &task).await.unwrap_err(), "NOT_FOUND");
    assert_eq!(hand.lease().await, Value::Null);
    suite.finish().await;
}

/// The same with a real runner: its build ends, and nothing of it is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_build_ends() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    let build = "[build]\ncommand = \"echo waiting; exec sleep 987\"\n[run]\ncommand = \"true\"\n";
    it.repository.write("tenantry.toml", build);
    it.repository.commit("never");
    let id = it.environment("main", "DEVELOPMENT").await;
    let task = it.queue("Deploy", &id, json!({})).await;
    eventually("a build", async || {
        it.task(&task).await["logLines"].to_string().contains("waiting").then_some(())
    })
    .await;
    let cancel = it.world.there(json!({ "taskId": task }));
    it.owner().tell(&format!("{TASKS}/CancelTask"), cancel).await;
    assert_eq!(it.ended(&task).await["state"], "TASK_STATE_CANCELLED");
    assert_eq!(it.state(&id).await, "PENDING");
    let sleeping = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let mut lines =
            all.filter_map(|it| std::fs::read_to_string(it.path().join("cmdline")).ok());
        lines.any(|it| it == "sleep\0987\0")
    };
    eventually("the end of the build", async || (!sleeping()).then_some(())).await;
    suite.finish().await;
}

/// PE-32: only what failed is repeated, as a new task with the same configuration.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_is_repeated() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
    hand.beat().await;
    let id = hand.environment("main").await;
    let retry = async |task: &str| {
        let retry = it.world.there(json!({ "taskId": task }));
        it.owner().ask(&format!("{TASKS}/RetryTask"), retry).await.map_err(|it| it.reason)
    };
    let task = it.queue("Deploy", &id, json!({ "modules": ["all"] })).await;
    assert_eq!(retry(&task).await.unwrap_err(), "INVALID_STATE");
    let lease = hand.lease().await;
    hand.finish(&lease, json!({ "errorMessage": "it broke" })).await.unwrap();
    assert_eq!(it.state(&id).await, "ERROR");
    let again = retry(&task).await.unwrap()["task"].clone();
    assert_eq!((&again["retryOf"], &again["modules"]), (&json!(task), &json!(["all"])));
    assert_ne!(again["id"], json!(task));
    let lease = hand.lease().await;
    hand.finish(&lease, served()).await.unwrap();
    assert_eq!(it.state(&id).await, "RUNNING");
    assert_eq!(retry(&text(&again["id"])).await.unwrap_err(), "INVALID_STATE");
    suite.finish().await;
}

/// PE-36: a runner that goes silent loses its task; after three the task has failed, and the environment
/// with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_runners_go_silent_fails() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
    hand.beat().await;
    let id = hand.environment("main").await;
    let task = it.queue("Deploy", &id, json!({})).await;
    let mut leases = vec![];
    for _ in 0..3 {
        let lease = hand.lease().await;
        assert_eq!(lease["taskId"], json!(task));
        leases.push(lease);
        suite.clock.advance(chassis::clock::Duration::seconds(16));
    }
    assert_eq!(hand.report(&leases[0], json!({})).await.unwrap_err(), "LEASE_LOST");
    let beat = json!({ "tasks": [held(&leases[2])] });
    assert_eq!(hand.say("Heartbeat", beat).await.unwrap()["lostTaskIds"], json!([task]));
    assert_eq!(hand.lease().await, Value::Null);
    let failed = it.task(&task).await;
    assert_eq!(failed["state"], "TASK_STATE_FAILED");
    assert!(text(&failed["errorMessage"]).starts_with("worker lost"), "{failed}");
    assert_eq!(it.state(&id).await, "ERROR");
    suite.finish().await;
}

/// 2.3: what the platform pauses it lifts; its person does neither start nor resume it meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_platform_pauses_only_it_lets_go_on() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    let id = it.environment("main", "DEVELOPMENT").await;
    it.run("Deploy", &id, json!({})).await;
    let billing = suite.billing_of_projects();
    let ask = api::project::SuspendEnvironmentsRequest {
        org_id: it.world.org.clone(),
        reason: api::project::PauseReason::Billing.into(),
        ..Default::default()
    };
    let suspended = billing.clone().suspend_environments(ask.clone()).await.unwrap().into_inner();
    assert_eq!(suspended.suspended, 1);
    let now = it.get(&id).await;
    assert_eq!(
        (&now["state"], &now["pauseReason"]),
        (&json!("ENVIRONMENT_STATE_PAUSED"), &json!("PAUSE_REASON_BILLING"))
    );
    let quiet = "select count(*) from project.task where state in ('queued', 'running')";
    eventually("the pause", async || (suite.count(quiet).await == 0).then_some(())).await;
    for verb in ["Resume", "Stop", "Start", "Deploy"] {
        assert_eq!(it.refused(verb, &id, json!({})).await, "INVALID_STATE", "{verb}");
    }
    assert_eq!(it.page(&id, "/").await, "", "it gets no processor time");
    let lift = api::project::LiftSuspensionsRequest {
        org_id: ask.org_id,
        reason: ask.reason,
        ..Default::default()
    };
    let lifted = billing.clone().lift_suspensions(lift).await.unwrap().into_inner();
    assert_eq!(lifted.lifted, 1);
    eventually("RUNNING", async || (it.state(&id).await == "RUNNING").then_some(())).await;
    assert!(it.page(&id, "/").await.starts_with("one"));
    suite.finish().await;
}
