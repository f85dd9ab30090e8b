//! Programs after a failed task: the state ERROR says how the last task ended, `observed` what serves.

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::support::hosting::{Hosting, PROJECTS};

/// Deploys a version, and then one whose build fails.
async fn deploy_and_break(hosting: &Hosting, id: &str) {
    hosting.repository.commit("one");
    let deployed = hosting.run_task("Deploy", id, json!({})).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
    hosting.repository.commit("");
    let broken = hosting.run_task("Deploy", id, json!({})).await;
    assert_eq!(broken["state"], "TASK_STATE_FAILED", "{broken}");
    assert_facts(hosting, id, "ERROR", "RUNNING", "FAILED").await;
}

/// Checks the state, what runs, and how the last task ended.
async fn assert_facts(hosting: &Hosting, id: &str, state: &str, observed: &str, task: &str) {
    let now = hosting.get(id).await;
    let facts = [&now["state"], &now["observed"], &now["lastTaskState"]];
    let expected = [
        format!("ENVIRONMENT_STATE_{state}"),
        format!("OBSERVED_{observed}"),
        format!("TASK_STATE_{task}"),
    ];
    assert_eq!(facts.map(Value::clone), expected.map(Value::from), "{now}");
}

/// PE-14: a project is not deleted while a version serves, although the last task failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_project_with_a_serving_version_is_not_deleted() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("live", "PRODUCTION").await;
    deploy_and_break(&hosting, &id).await;
    let delete = json!({ "confirmName": "Hosted", "confirm": true });
    let delete = hosting.world.project_request(delete);
    let method = format!("{PROJECTS}/DeleteProject");
    let refused = hosting.owner().call_err(&method, delete.clone()).await;
    assert_eq!(refused, "PROJECT_HAS_ACTIVE_ENVIRONMENTS");
    let preview = format!("{PROJECTS}/PreviewProjectDeletion");
    let request = hosting.world.project_request(json!({}));
    let preview = hosting.owner().call_ok(&preview, request.clone()).await;
    assert_eq!(preview["blockingEnvironmentIds"], json!([id]));
    let overview = format!("{PROJECTS}/GetProjectOverview");
    let overview = hosting.owner().call_ok(&overview, request).await;
    assert_eq!(overview["overview"]["runningEnvironmentCount"], 1);
    assert!(hosting.page(&id, "/").await.starts_with("one\n"));

    hosting.run_task("Stop", &id, json!({})).await;
    assert_facts(&hosting, &id, "STOPPED", "STOPPED", "COMPLETED").await;
    hosting.owner().call_ok(&method, delete).await;
    suite.finish().await;
}

/// PE-29: after a failed deployment the version that serves is restarted, paused, resumed and stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_serving_version_is_operated_after_a_failed_deployment() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    deploy_and_break(&hosting, &id).await;
    assert_eq!(hosting.call_err("Start", &id, json!({})).await, "INVALID_STATE");
    let restarted = hosting.run_task("Restart", &id, json!({})).await;
    assert_eq!(restarted["state"], "TASK_STATE_COMPLETED", "{restarted}");
    assert!(hosting.page(&id, "/").await.starts_with("one\n"));
    assert_facts(&hosting, &id, "RUNNING", "RUNNING", "COMPLETED").await;

    deploy_and_break(&hosting, &id).await;
    let paused = hosting.run_task("Pause", &id, json!({})).await;
    assert_eq!(paused["state"], "TASK_STATE_COMPLETED", "{paused}");
    assert_facts(&hosting, &id, "PAUSED", "PAUSED", "COMPLETED").await;
    hosting.run_task("Resume", &id, json!({})).await;
    deploy_and_break(&hosting, &id).await;
    let clone = hosting.request(&id, json!({ "name": "copy" }));
    let method = format!("{}/CloneEnvironment", crate::support::hosting::ENVIRONMENTS);
    let copy = hosting.owner().call_ok(&method, clone).await;
    let task = hosting.finished_task(copy["task"]["id"].as_str().unwrap()).await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    assert_facts(&hosting, &id, "ERROR", "RUNNING", "FAILED").await;
    hosting.run_task("Stop", &id, json!({})).await;
    assert_facts(&hosting, &id, "STOPPED", "STOPPED", "COMPLETED").await;
    suite.finish().await;
}

/// PE-36: the end of a version that still served after a failed deployment is noticed; it can be started
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_version_is_noticed_after_a_failed_deployment() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    // The program ends, and cannot be restarted, while this file exists.
    let run = "test ! -e $DATA_DIR/kept && exec perl server.pl";
    let build = "test -f page.txt";
    let manifest = format!("[build]\ncommand = \"{build}\"\n[run]\ncommand = \"{run}\"\n");
    hosting.repository.write("tenantry.toml", &manifest);
    deploy_and_break(&hosting, &id).await;
    hosting.page(&id, "/keep/broken").await;
    hosting.page(&id, "/end").await;
    eventually("the end of the program", async || {
        (hosting.get(&id).await["observed"] == "OBSERVED_FAILED").then_some(())
    })
    .await;
    let error = hosting.get(&id).await["lastError"].to_string();
    assert!(error.contains("restarted 5 times"), "{error}");
    let kept = suite.data_dir().join("runner").join(&id).join("data/kept");
    std::fs::remove_file(kept).unwrap();
    let started = hosting.run_task("Start", &id, json!({})).await;
    assert_eq!(started["state"], "TASK_STATE_COMPLETED", "{started}");
    assert_facts(&hosting, &id, "RUNNING", "RUNNING", "COMPLETED").await;
    suite.finish().await;
}
