//! Updates of modules, neutralized copies, and the database of Odoo projects: what the runner gets.

use serde_json::{Value, json};
use testkit::Suite;

use crate::support::{
    audit_client::AuditClient,
    fake_runner::{FakeRunner, success_result},
    hosting::{ENVIRONMENTS, PROJECTS, TASKS},
    world::text,
};

const ADDONS: &str = "project.v1.AddonService";
const UPDATE_MODULES: &str = "project.v1.EnvironmentService/UpdateModules";

/// Deploys an environment by the fake runner; returns its id.
async fn deployed(runner: &FakeRunner, name: &str, kind: &str) -> String {
    let kind = format!("ENVIRONMENT_KIND_{kind}");
    let fields = json!({ "name": name, "kind": kind, "serverId": runner.server });
    let id = runner.hosting.create_environment(fields).await;
    runner.hosting.start_task("Deploy", &id, json!({})).await;
    finish(runner).await;
    id
}

/// Completes the next task; returns its lease.
async fn finish(runner: &FakeRunner) -> Value {
    let lease = runner.lease_task().await;
    runner.finish_task(&lease, success_result()).await.unwrap();
    lease
}

/// Value of a variable of a lease.
fn variable(lease: &Value, name: &str) -> String {
    let all = lease["variables"].as_array().cloned().unwrap_or_default();
    all.iter().find(|it| it["name"] == name).map(|it| text(&it["value"])).unwrap_or_default()
}

/// PE-28: modules are updated in RUNNING. After a failure the environment is in ERROR with what runs, and the
/// update can be retried.
#[tokio::test(flavor = "multi_thread")]
async fn modules_of_a_running_environment_are_updated() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let log = AuditClient::new(&suite, hosting.owner(), &hosting.world.org).await;
    let id = deployed(&runner, "main", "DEVELOPMENT").await;
    let update = |modules: Value| hosting.request(&id, json!({ "modules": modules }));
    for invalid in [json!([]), json!(["a b"]), json!(["--init"]), json!(vec!["a"; 51])] {
        let refused = hosting.owner().call_err(UPDATE_MODULES, update(invalid.clone())).await;
        assert_eq!(refused, "INVALID_FIELD", "{invalid}");
    }
    let modules = json!(["sale", "stock"]);
    let queued = hosting.owner().call_ok(UPDATE_MODULES, update(modules.clone())).await;
    assert_eq!(queued["task"]["modules"], modules);
    let lease = finish(&runner).await;
    assert_eq!(lease["kind"], "TASK_KIND_UPDATE_MODULES");
    assert_eq!(variable(&lease, "MODULES"), "sale,stock");
    assert_eq!(hosting.state(&id).await, "RUNNING");

    let queued = hosting.owner().call_ok(UPDATE_MODULES, update(modules.clone())).await;
    let lease = runner.lease_task().await;
    let failed = json!({ "errorMessage": "the update failed", "observed": "OBSERVED_RUNNING" });
    runner.finish_task(&lease, failed).await.unwrap();
    assert_eq!(hosting.state(&id).await, "ERROR");
    let retry = hosting.world.project_request(json!({ "taskId": queued["task"]["id"] }));
    let retried = hosting.owner().call_ok(&format!("{TASKS}/RetryTask"), retry).await;
    assert_eq!(retried["task"]["modules"], modules);
    finish(&runner).await;
    assert_eq!(hosting.state(&id).await, "RUNNING");

    hosting.start_task("Stop", &id, json!({})).await;
    finish(&runner).await;
    let refused = hosting.owner().call_err(UPDATE_MODULES, update(modules)).await;
    assert_eq!(refused, "INVALID_STATE");
    suite.wait_for_log().await;
    for (action, count) in [
        ("environment.modules_update_requested", 3),
        ("environment.modules_updated", 2),
        ("environment.modules_update_failed", 1),
    ] {
        assert_eq!(log.entries(json!({ "action": action })).await.len(), count, "{action}");
    }
    suite.finish().await;
}

/// PE-42: a copy of PRODUCTION is neutralized, unless its target is PRODUCTION, and other copies are not.
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_production_are_neutralized() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let production = deployed(&runner, "production", "PRODUCTION").await;
    let staging = deployed(&runner, "staging", "STAGING").await;
    let over = |name: &str, id: &str| json!({ "targetEnvironmentId": id, "confirmName": name });
    for (source, target, expected) in [
        (&production, json!({ "name": "copy" }), true),
        (&production, over("staging", &staging), true),
        (&staging, json!({ "name": "other" }), false),
        (&staging, over("production", &production), false),
    ] {
        hosting.start_task("Clone", source, target.clone()).await;
        let lease = finish(&runner).await;
        assert_eq!(lease["neutralize"].as_bool().unwrap_or_default(), expected, "{target}");
    }
    suite.finish().await;
}

/// With its first Odoo version a project gets PostgreSQL, unless an environment sets the variable itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_project_with_an_odoo_version_has_a_database() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let (hosting, owner) = (&runner.hosting, runner.hosting.owner());
    runner.heartbeat().await;
    let addons = async |project: &Value| {
        let list = hosting.world.org_request(json!({ "projectId": project }));
        let listed = owner.call_ok(&format!("{ADDONS}/ListAddons"), list).await;
        let keys = listed["addons"].as_array().cloned().unwrap_or_default();
        keys.iter().map(|it| text(&it["addonKey"])).collect::<Vec<_>>()
    };
    let create = hosting.world.org_request(json!({
        "name": "Store", "repositoryUrl": "https://git.example.com/acme/store.git", "odooVersion": "17.0",
    }));
    let created = owner.call_ok(&format!("{PROJECTS}/CreateProject"), create).await;
    assert_eq!(addons(&created["project"]["id"]).await, ["postgresql"]);

    let id = deployed(&runner, "main", "DEVELOPMENT").await;
    let project = json!(hosting.world.project_request(json!({}))["projectId"]);
    let set_version = async |version: &str| {
        let update = json!({ "odooVersion": version, "updateMask": "odooVersion" });
        let update = hosting.world.project_request(update);
        owner.call_ok(&format!("{PROJECTS}/UpdateProject"), update).await
    };
    let variables = |key: &str, value: Value| hosting.request(&id, json!({ key: value }));
    let set = format!("{ENVIRONMENTS}/SetVariables");
    let url = json!([{ "name": "DATABASE_URL", "value": "postgres://own", "secret": true }]);
    owner.call_ok(&set, variables("set", url)).await;
    set_version("17.0").await;
    assert_eq!(addons(&project).await, [""; 0]);
    set_version("").await;
    owner.call_ok(&set, variables("remove", json!(["DATABASE_URL"]))).await;
    set_version("17.0").await;
    assert_eq!(addons(&project).await, ["postgresql"]);
    let lease = finish(&runner).await;
    assert_eq!(lease["kind"], "TASK_KIND_PROVISION");
    set_version("18.0").await;
    assert_eq!(addons(&project).await, ["postgresql"]);
    suite.finish().await;
}
