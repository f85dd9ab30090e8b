//! Tasks from the queue to their end, mostly with a fake runner.

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::support::{
    fake_runner::{FakeRunner, lease_ids, success_result},
    hosting::{ENVIRONMENTS, Hosting, TASKS},
    world::text,
};

/// PE-24, PE-25, PE-34, PE-35: a task is queued at once, is the only one of its environment, and reports
/// monotonic progress.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_leased_reported_and_finished() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let id = runner.environment("main").await;
    let task = hosting.start_task("Deploy", &id, json!({})).await;
    assert_eq!(hosting.task(&task).await["state"], "TASK_STATE_QUEUED");
    let busy = hosting
        .owner()
        .call(&format!("{ENVIRONMENTS}/StopEnvironment"), hosting.request(&id, json!({})))
        .await;
    let busy = busy.unwrap_err();
    assert_eq!(busy.reason, "TASK_IN_PROGRESS");
    assert!(busy.to_string().contains(&task), "{busy}");

    let lease = runner.lease_task().await;
    assert_eq!((&lease["taskId"], &lease["branch"]), (&json!(task), &json!("main")));
    assert_eq!(runner.lease_task().await, Value::Null, "a task is leased once");
    let step = json!({ "progressPercent": 60, "currentStep": "build", "logLines": ["a", "b"],
        "totalSteps": 5 });
    runner.report_progress(&lease, step).await.unwrap();
    runner
        .report_progress(&lease, json!({ "progressPercent": 20, "logLines": ["c"] }))
        .await
        .unwrap();
    let now = hosting.task(&task).await;
    assert_eq!((&now["progressPercent"], &now["currentStep"]), (&json!(60), &json!("build")));
    assert_eq!(now["logLines"], json!(["a", "b", "c"]));
    runner.finish_task(&lease, success_result()).await.unwrap();
    assert_eq!(hosting.task(&task).await["progressPercent"], 100);
    assert_eq!(hosting.state(&id).await, "RUNNING");
    assert_eq!(runner.finish_task(&lease, success_result()).await.unwrap_err(), "LEASE_LOST");
    suite.finish().await;
}

/// PE-31: a queued task is cancelled at once, a running one by its runner; the environment returns to its
/// previous state; a finished task cannot be cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_cancelled() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let id = runner.environment("main").await;
    let cancel = async |task: &str| {
        let cancel = hosting.world.project_request(json!({ "taskId": task }));
        hosting.owner().call(&format!("{TASKS}/CancelTask"), cancel).await.map_err(|it| it.reason)
    };
    let task = hosting.start_task("Deploy", &id, json!({})).await;
    assert_eq!(cancel(&task).await.unwrap()["task"]["state"], "TASK_STATE_CANCELLED");
    assert_eq!(hosting.state(&id).await, "PENDING");
    assert_eq!(cancel(&task).await.unwrap_err(), "INVALID_STATE");

    let task = hosting.start_task("Deploy", &id, json!({})).await;
    let lease = runner.lease_task().await;
    let requested = cancel(&task).await.unwrap();
    assert_eq!(
        (&requested["task"]["state"], &requested["task"]["cancelRequested"]),
        (&json!("TASK_STATE_RUNNING"), &json!(true))
    );
    assert_eq!(runner.report_progress(&lease, json!({})).await.unwrap()["cancel"], true);
    let heartbeat = json!({ "tasks": [lease_ids(&lease)] });
    assert_eq!(
        runner.call("Heartbeat", heartbeat).await.unwrap()["cancelledTaskIds"],
        json!([task])
    );
    runner.finish_task(&lease, json!({ "cancelled": true })).await.unwrap();
    assert_eq!(
        (hosting.task(&task).await["state"].clone(), hosting.state(&id).await),
        (json!("TASK_STATE_CANCELLED"), "PENDING".to_owned())
    );
    suite.finish().await;
}

/// PE-31, PE-32, PE-40: a cancelled or failed copy unlocks its source; a retry locks the source again and
/// needs it to exist.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_or_failed_copy_unlocks_its_source() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let source = runner.environment("main").await;
    hosting.start_task("Deploy", &source, json!({})).await;
    runner.finish_task(&runner.lease_task().await, success_result()).await.unwrap();
    let call_task = async |verb: &str, task: &str| {
        let request = hosting.world.project_request(json!({ "taskId": task }));
        hosting.owner().call(&format!("{TASKS}/{verb}Task"), request).await.map_err(|it| it.reason)
    };
    let task = hosting.start_task("Clone", &source, json!({ "name": "one" })).await;
    assert_eq!(hosting.state(&source).await, "CLONING");
    call_task("Cancel", &task).await.unwrap();
    assert_eq!(hosting.state(&source).await, "RUNNING");

    let task = hosting.start_task("Clone", &source, json!({ "name": "two" })).await;
    runner.finish_task(&runner.lease_task().await, json!({ "errorMessage": "no" })).await.unwrap();
    assert_eq!(
        (hosting.task(&task).await["state"].clone(), hosting.state(&source).await),
        (json!("TASK_STATE_FAILED"), "RUNNING".to_owned())
    );
    let retried = call_task("Retry", &task).await.unwrap();
    assert_eq!(hosting.state(&source).await, "CLONING");
    call_task("Cancel", &text(&retried["task"]["id"])).await.unwrap();
    let destroy = json!({ "confirmName": "main" });
    hosting.start_task("Destroy", &source, destroy).await;
    runner.finish_task(&runner.lease_task().await, json!({})).await.unwrap();
    assert_eq!(call_task("Retry", &task).await.unwrap_err(), "NOT_FOUND");
    assert_eq!(runner.lease_task().await, Value::Null);
    suite.finish().await;
}

/// PE-31: a real runner kills a cancelled build with all its processes.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_build_ends() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let build = "[build]\ncommand = \"echo waiting; exec sleep 987\"\n[run]\ncommand = \"true\"\n";
    hosting.repository.write("tenantry.toml", build);
    hosting.repository.commit("never");
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let task = hosting.start_task("Deploy", &id, json!({})).await;
    eventually("a build", async || {
        hosting.task(&task).await["logLines"].to_string().contains("waiting").then_some(())
    })
    .await;
    let cancel = hosting.world.project_request(json!({ "taskId": task }));
    hosting.owner().call_ok(&format!("{TASKS}/CancelTask"), cancel).await;
    assert_eq!(hosting.finished_task(&task).await["state"], "TASK_STATE_CANCELLED");
    assert_eq!(hosting.state(&id).await, "PENDING");
    let is_running = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let mut lines =
            all.filter_map(|it| std::fs::read_to_string(it.path().join("cmdline")).ok());
        lines.any(|it| it == "sleep\0987\0")
    };
    eventually("the end of the build", async || (!is_running()).then_some(())).await;
    suite.finish().await;
}

/// PE-32: only a failed task is retried, as a new task with the same configuration.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_is_retried() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let id = runner.environment("main").await;
    let retry = async |task: &str| {
        let retry = hosting.world.project_request(json!({ "taskId": task }));
        hosting.owner().call(&format!("{TASKS}/RetryTask"), retry).await.map_err(|it| it.reason)
    };
    let task = hosting.start_task("Deploy", &id, json!({ "modules": ["all"] })).await;
    assert_eq!(retry(&task).await.unwrap_err(), "INVALID_STATE");
    let lease = runner.lease_task().await;
    runner.finish_task(&lease, json!({ "errorMessage": "it broke" })).await.unwrap();
    assert_eq!(hosting.state(&id).await, "ERROR");
    let retried = retry(&task).await.unwrap()["task"].clone();
    assert_eq!((&retried["retryOf"], &retried["modules"]), (&json!(task), &json!(["all"])));
    assert_ne!(retried["id"], json!(task));
    let lease = runner.lease_task().await;
    runner.finish_task(&lease, success_result()).await.unwrap();
    assert_eq!(hosting.state(&id).await, "RUNNING");
    assert_eq!(retry(&text(&retried["id"])).await.unwrap_err(), "INVALID_STATE");
    suite.finish().await;
}

/// PE-36: a runner without heartbeats loses its lease; after three lost leases the task fails and the
/// environment is in ERROR.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_without_heartbeats_fails() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let id = runner.environment("main").await;
    let task = hosting.start_task("Deploy", &id, json!({})).await;
    let mut leases = vec![];
    for _ in 0..3 {
        let lease = runner.lease_task().await;
        assert_eq!(lease["taskId"], json!(task));
        leases.push(lease);
        suite.clock.advance(chassis::clock::Duration::seconds(16));
    }
    assert_eq!(runner.report_progress(&leases[0], json!({})).await.unwrap_err(), "LEASE_LOST");
    let heartbeat = json!({ "tasks": [lease_ids(&leases[2])] });
    assert_eq!(runner.call("Heartbeat", heartbeat).await.unwrap()["lostTaskIds"], json!([task]));
    assert_eq!(runner.lease_task().await, Value::Null);
    let failed = hosting.task(&task).await;
    assert_eq!(failed["state"], "TASK_STATE_FAILED");
    assert!(text(&failed["errorMessage"]).starts_with("worker lost"), "{failed}");
    assert_eq!(hosting.state(&id).await, "ERROR");
    suite.finish().await;
}

/// Environments that the billing system suspends cannot be started or resumed by people until it lifts the
/// suspension.
#[tokio::test(flavor = "multi_thread")]
async fn suspended_environments_wait_for_the_billing_system() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    hosting.run_task("Deploy", &id, json!({})).await;
    let billing = suite.billing_environments();
    let suspend = api::project::SuspendEnvironmentsRequest {
        org_id: hosting.world.org.clone(),
        reason: api::project::PauseReason::Billing.into(),
        ..Default::default()
    };
    let suspended =
        billing.clone().suspend_environments(suspend.clone()).await.unwrap().into_inner();
    assert_eq!(suspended.suspended, 1);
    let now = hosting.get(&id).await;
    assert_eq!(
        (&now["state"], &now["pauseReason"]),
        (&json!("ENVIRONMENT_STATE_PAUSED"), &json!("PAUSE_REASON_BILLING"))
    );
    let pending = "select count(*) from project.task where state in ('queued', 'running')";
    eventually("the pause", async || (suite.count(pending).await == 0).then_some(())).await;
    for verb in ["Resume", "Stop", "Start", "Deploy"] {
        assert_eq!(hosting.call_err(verb, &id, json!({})).await, "INVALID_STATE", "{verb}");
    }
    assert_eq!(hosting.page(&id, "/").await, "", "it gets no processor time");
    let lift = api::project::LiftSuspensionsRequest {
        org_id: suspend.org_id,
        reason: suspend.reason,
        ..Default::default()
    };
    let lifted = billing.clone().lift_suspensions(lift).await.unwrap().into_inner();
    assert_eq!(lifted.lifted, 1);
    eventually("RUNNING", async || (hosting.state(&id).await == "RUNNING").then_some(())).await;
    assert!(hosting.page(&id, "/").await.starts_with("one"));
    suite.finish().await;
}
