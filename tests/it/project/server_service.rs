//! Servers: connection with a token, limits of the plan, capacity, and health.

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::support::{
    fake_runner::FakeRunner,
    hosting::{ENVIRONMENTS, Hosting, SERVERS},
    world::{World, text},
};

/// Fields of a server.
fn server(address: &str) -> Value {
    json!({ "name": "eu-1", "address": address })
}

/// PL-17, PL-18, PL-22: permission to connect servers, their number, and their unique addresses.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_servers_is_limited() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.owner.change_plan(&world.org, api::identity::Plan::Starter).await.unwrap();
    let connect = format!("{SERVERS}/ConnectServer");
    let developer =
        world.developer.call_err(&connect, world.org_request(server("a.example.com"))).await;
    assert_eq!(developer, "MISSING_PERMISSION");
    let connected = world.admin.call_ok(&connect, world.org_request(server("a.example.com"))).await;
    assert!(text(&connected["agentToken"]).starts_with("tny_agt_"));
    assert_eq!(connected["server"]["health"], "SERVER_HEALTH_DISCONNECTED");
    let duplicate =
        world.admin.call_err(&connect, world.org_request(server("A.example.com"))).await;
    assert_eq!(duplicate, "SERVER_EXISTS");
    world.admin.call_ok(&connect, world.org_request(server("b.example.com"))).await;
    let over_limit =
        world.admin.call_err(&connect, world.org_request(server("c.example.com"))).await;
    assert_eq!(over_limit, "SERVER_LIMIT_REACHED");
    let list =
        world.viewer.call_ok(&format!("{SERVERS}/ListServers"), world.org_request(json!({}))).await;
    let own = list["servers"].as_array().unwrap().iter().filter(|it| it["shared"] != true).count();
    assert_eq!(own, 2, "{list}");
    assert!(!list.to_string().contains("tny_agt_"));
    suite.finish().await;
}

/// PL-21: a shared server shows name and health only, and cannot be changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_server_shows_name_and_health_only() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let list = hosting
        .owner()
        .call_ok(&format!("{SERVERS}/ListServers"), hosting.world.org_request(json!({})))
        .await;
    let shared = list["servers"].as_array().unwrap()[0].clone();
    let fields: Vec<_> = shared.as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, ["health", "id", "name", "shared"], "{shared}");
    let id = json!({ "serverId": shared["id"] });
    let remove = hosting
        .owner()
        .call_err(&format!("{SERVERS}/RemoveServer"), hosting.world.org_request(id))
        .await;
    assert_eq!(remove, "NOT_FOUND");
    suite.finish().await;
}

/// An agent token gives access to the tasks of its own server only, and ends with its rotation.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_token_gives_access_to_one_server() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let on_shared = hosting.environment("shared", "DEVELOPMENT").await;
    hosting.run_task("Deploy", &on_shared, json!({})).await;
    let own = runner.environment("own").await;
    let task = hosting.start_task("Deploy", &own, json!({})).await;
    let other = hosting.world.org_request(json!({ "name": "eu-2", "address": "eu-2.example.com" }));
    let other = hosting.owner().call_ok(&format!("{SERVERS}/ConnectServer"), other).await;
    let other = suite.client.with_token(&text(&other["agentToken"]));
    let lease = json!({ "runner": "x" });
    let none = other.call_json("project.v1.RunnerService/LeaseTask", lease.clone()).await.unwrap();
    assert_eq!(none["lease"], Value::Null);
    let lease_of_own = runner.lease_task().await;
    assert_eq!(lease_of_own["taskId"], json!(task));
    let steal = json!({ "runner": "x", "taskId": task, "leaseId": lease_of_own["leaseId"],
        "errorMessage": "no" });
    let stolen = other.call_json("project.v1.RunnerService/FinishTask", steal).await.unwrap_err();
    assert_eq!(stolen.reason, "NOT_FOUND");

    let rotate = hosting.world.org_request(json!({ "serverId": runner.server }));
    let rotated = hosting.owner().call_ok(&format!("{SERVERS}/RotateServerToken"), rotate).await;
    assert_eq!(runner.call("LeaseTask", json!({})).await.unwrap_err(), "INVALID_CREDENTIAL");
    let renewed = suite.client.with_token(&text(&rotated["agentToken"]));
    renewed.call_json("project.v1.RunnerService/Heartbeat", lease).await.unwrap();
    // An agent token is not accepted by methods for people.
    let project = hosting.world.project_request(json!({}));
    let person =
        renewed.call_json("project.v1.ProjectService/GetProject", project).await.unwrap_err();
    assert_eq!(person.reason, "INVALID_CREDENTIAL");
    assert_ne!(runner.token, text(&rotated["agentToken"]));
    suite.finish().await;
}

/// PE-19, PE-21, PE-22, PE-23, PL-19, PL-20: environments use capacity until they are destroyed; a server
/// without heartbeats gets no new ones; a server in use cannot be removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_takes_environments_up_to_its_capacity_while_healthy() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    let create = format!("{ENVIRONMENTS}/CreateEnvironment");
    let sized = |name: &str, memory: i32| {
        let resources = json!({ "cpuCores": 0.5, "memoryMb": memory, "diskGb": 5 });
        hosting.world.project_request(
            json!({ "name": name, "serverId": runner.server, "resources": resources }),
        )
    };
    assert_eq!(hosting.owner().call_err(&create, sized("a", 512)).await, "SERVER_UNREACHABLE");
    runner.heartbeat().await;
    let created = hosting.owner().call_ok(&create, sized("a", 3_000)).await;
    let a = text(&created["environment"]["id"]);
    let full = hosting.owner().call(&create, sized("b", 1_097)).await.unwrap_err();
    assert_eq!(full.reason, "QUOTA_EXCEEDED");
    assert!(full.to_string().contains("1096 memory_mb available"), "{full}");
    hosting.owner().call_ok(&create, sized("b", 1_096)).await;
    let update = format!("{ENVIRONMENTS}/UpdateEnvironment");
    let bigger = json!({ "cpuCores": 0.5, "memoryMb": 3_001, "diskGb": 5 });
    let bigger = hosting.request(&a, json!({ "resources": bigger, "updateMask": "resources" }));
    assert_eq!(hosting.owner().call_err(&update, bigger).await, "QUOTA_EXCEEDED");
    let get = hosting.world.org_request(json!({ "serverId": runner.server }));
    let server =
        hosting.owner().call_ok(&format!("{SERVERS}/GetServer"), get.clone()).await["server"]
            .clone();
    assert_eq!(
        (&server["allocated"]["memoryMb"], &server["environmentCount"]),
        (&json!(4_096), &json!(2))
    );
    let remove = format!("{SERVERS}/RemoveServer");
    assert_eq!(hosting.owner().call_err(&remove, get.clone()).await, "SERVER_IN_USE");

    // A disk does not shrink below its used size.
    let used = json!({ "environments": [{ "environmentId": a, "observed": "OBSERVED_STOPPED",
        "diskBytes": "3221225472" }] });
    runner.call("Heartbeat", used).await.unwrap();
    let smaller = json!({ "cpuCores": 0.5, "memoryMb": 3_000, "diskGb": 2 });
    let smaller = hosting.request(&a, json!({ "resources": smaller, "updateMask": "resources" }));
    assert_eq!(hosting.owner().call_err(&update, smaller).await, "INVALID_FIELD");
    let empty = hosting.request(&a, json!({ "updateMask": "" }));
    assert_eq!(hosting.owner().call_err(&update, empty).await, "INVALID_FIELD");

    // Without heartbeats the server becomes DEGRADED, DISCONNECTED and DEAD; one heartbeat makes it HEALTHY.
    let health = async || {
        text(
            &hosting.owner().call_ok(&format!("{SERVERS}/GetServer"), get.clone()).await["server"]
                ["health"],
        )
    };
    for (seconds, expected) in [(16, "DEGRADED"), (16, "DISCONNECTED"), (80, "DEAD")] {
        suite.clock.advance(chassis::clock::Duration::seconds(seconds));
        assert_eq!(health().await, format!("SERVER_HEALTH_{expected}"));
    }
    assert_eq!(hosting.call_err("Deploy", &a, json!({})).await, "SERVER_UNREACHABLE");
    let changes = "select count(*) from project.outbox
                   where type = 'tenantry.project.v1.ServerHealthChanged'";
    eventually("events of the health", async || (suite.count(changes).await >= 2).then_some(()))
        .await;
    let force = json!({ "confirmName": "a", "force": true });
    let destroy = format!("{ENVIRONMENTS}/DestroyEnvironment");
    let dropped = hosting.owner().call_ok(&destroy, hosting.request(&a, force)).await;
    assert_eq!(dropped["environment"]["state"], "ENVIRONMENT_STATE_DELETED");
    // The next heartbeat lists environments to remove.
    let heartbeat =
        json!({ "environments": [{ "environmentId": a, "observed": "OBSERVED_RUNNING" }] });
    let answer = runner.call("Heartbeat", heartbeat).await.unwrap();
    assert_eq!(answer["unknownEnvironmentIds"], json!([a]));
    assert_eq!(health().await, "SERVER_HEALTH_HEALTHY");
    suite.finish().await;
}
