//! Tasks in the audit log: the request is an action of the person, and what the runner did names it as its
//! parent.

use serde_json::{Value, json};
use testkit::Suite;

use crate::support::{
    audit_client::AuditClient,
    fake_runner::{FakeRunner, success_result},
    world::text,
};

/// AU-2: start, stop, pause, resume, restart, clone and destroy are found by the action and the person; the
/// result is an entry of its own, whose parent is the request.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_an_action_of_the_person_and_its_result_an_effect() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let log = AuditClient::new(&suite, hosting.owner(), &hosting.world.org).await;
    let id = runner.environment("main").await;
    let clone = json!({ "name": "copy" });
    let destroy = json!({ "confirmName": "main" });
    for (verb, fields, request, result) in [
        ("Deploy", json!({}), "deployment.requested", "deployment.completed"),
        ("Pause", json!({}), "environment.pause_requested", "environment.paused"),
        ("Resume", json!({}), "environment.resume_requested", "environment.resumed"),
        ("Restart", json!({}), "environment.restart_requested", "environment.restarted"),
        ("Stop", json!({}), "environment.stop_requested", "environment.stopped"),
        ("Start", json!({}), "environment.start_requested", "environment.started"),
        ("Clone", clone, "environment.clone_requested", "environment.cloned"),
        ("Destroy", destroy, "environment.destroy_requested", "environment.destroyed"),
    ] {
        hosting.start_task(verb, &id, fields).await;
        let lease = runner.lease_task().await;
        runner.finish_task(&lease, success_result()).await.unwrap();
        suite.wait_for_log().await;
        let only = async |filter: Value| {
            let mut found = log.entries(filter).await;
            assert_eq!(found.len(), 1, "{verb}: {found:?}");
            found.remove(0)["envelope"].clone()
        };
        let actor = json!({ "action": request, "actorId": hosting.owner().user_id });
        let requested = only(actor).await;
        let done = only(json!({ "action": result })).await;
        assert_eq!(done["parentEventId"], requested["id"], "{verb}");
        assert_ne!(done["actor"]["id"], requested["actor"]["id"], "{verb}");
        assert_eq!(
            text(&done["event"]["task"]["triggeredBy"]),
            hosting.owner().user_id,
            "{verb}: the result names the person"
        );
    }
    let started = log.entries(json!({ "action": "deployment.started" })).await;
    let requested = log.entries(json!({ "action": "deployment.requested" })).await;
    assert_eq!(started[0]["envelope"]["parentEventId"], requested[0]["envelope"]["id"]);
    suite.finish().await;
}
