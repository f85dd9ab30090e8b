//! Limits and names of variables: what is accepted reaches the program, and what takes effect is listed.

use serde_json::{Value, json};
use testkit::Suite;

use crate::support::{
    fake_runner::{FakeRunner, success_result},
    hosting::{ENVIRONMENTS, Hosting},
};

const ADDONS: &str = "project.v1.AddonService";

async fn set(
    hosting: &Hosting,
    id: &str,
    change: Value,
) -> Result<Value, tenantry::client::CallError> {
    let method = format!("{ENVIRONMENTS}/SetVariables");
    hosting.owner().call(&method, hosting.request(id, change)).await
}

/// Variables `<PREFIX>0`, `<PREFIX>1`, …
fn variables(prefix: &str, count: usize, length: usize) -> Value {
    let value = "x".repeat(length);
    let variable = |it| json!({ "name": format!("{prefix}{it}"), "value": value, "secret": true });
    json!({ "set": (0..count).map(variable).collect::<Vec<_>>() })
}

/// The sum of all variables is limited when they are set; the largest accepted sum reaches the program.
#[tokio::test(flavor = "multi_thread")]
async fn the_sum_of_all_variables_is_limited_when_they_are_set() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let error = set(&hosting, &id, variables("LARGE", 9, 32_768)).await.unwrap_err();
    assert_eq!(error.reason, "INVALID_FIELD");
    assert!(error.to_string().contains("more than 262144 bytes"), "{error}");
    set(&hosting, &id, variables("LARGE", 7, 32_768)).await.unwrap();
    set(&hosting, &id, variables("SMALL", 190, 150)).await.unwrap();
    assert!(set(&hosting, &id, variables("MORE", 1, 10_000)).await.is_err());
    let task = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    crate::support::sealed_values::require_sealed_values(
        &suite,
        &["project.environment_variable.sealed"],
    )
    .await;
    suite.finish().await;
}

/// A task that starts no program gets no variables, so it needs neither their size nor their secrets.
#[tokio::test(flavor = "multi_thread")]
async fn leases_of_tasks_that_only_stop_have_no_variables() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let id = runner.environment("main").await;
    set(hosting, &id, variables("SECRET", 2, 10)).await.unwrap();
    let variables = |lease: &Value| lease["variables"].as_array().map_or(0, Vec::len);
    hosting.start_task("Deploy", &id, json!({})).await;
    let lease = runner.lease_task().await;
    assert!(variables(&lease) > 2, "{lease}");
    runner.finish_task(&lease, success_result()).await.unwrap();
    // A secret that cannot be opened any more.
    let damage = "update project.environment_variable set sealed = 'damaged'";
    sqlx::query(damage).execute(&suite.pool).await.unwrap();
    let destroy = json!({ "confirmName": "main" });
    for (verb, more) in [("Sync", json!({})), ("Stop", json!({})), ("Destroy", destroy)] {
        hosting.start_task(verb, &id, more).await;
        let lease = runner.lease_task().await;
        assert_eq!(variables(&lease), 0, "{verb}: {lease}");
        let result = json!({ "observed": "OBSERVED_RUNNING" });
        runner.finish_task(&lease, result).await.unwrap();
    }
    suite.finish().await;
}

/// An add-on does not silently replace a variable of the same name: both orders are refused, and the list of
/// variables names the add-on.
#[tokio::test(flavor = "multi_thread")]
async fn a_variable_and_an_addon_do_not_share_a_name() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let own = json!({ "set": [{ "name": "DATABASE_URL", "value": "postgres://own" }] });
    set(&hosting, &id, own.clone()).await.unwrap();
    let attach = hosting.world.project_request(json!({ "addonKey": "postgresql" }));
    let method = format!("{ADDONS}/AttachAddon");
    let error = hosting.owner().call(&method, attach.clone()).await.unwrap_err();
    assert_eq!(error.reason, "INVALID_FIELD");
    assert!(error.to_string().contains("a variable of the environments main"), "{error}");

    set(&hosting, &id, json!({ "remove": ["DATABASE_URL"] })).await.unwrap();
    hosting.owner().call_ok(&method, attach).await;
    let error = set(&hosting, &id, own).await.unwrap_err();
    assert!(error.to_string().contains("the add-on postgresql"), "{error}");
    let list = format!("{ENVIRONMENTS}/ListVariables");
    let list = hosting.owner().call_ok(&list, hosting.request(&id, json!({}))).await;
    let entry = &list["variables"][0];
    assert_eq!(
        (&entry["name"], &entry["addonKey"], &entry["secret"], &entry["value"]),
        (&json!("DATABASE_URL"), &json!("postgresql"), &json!(true), &Value::Null)
    );
    suite.finish().await;
}
