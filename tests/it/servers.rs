//! Servers: connected with a token, limited by the plan, filled to their capacity, and missed when they are
//! gone.

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::{
    hosting::{ENVIRONMENTS, Hosting, SERVERS},
    tasks::Hand,
    world::{World, text},
};

fn draft(address: &str) -> Value {
    json!({ "name": "eu-1", "address": address })
}

/// PL-17, PL-18, PL-22: who connects servers, how many, and each address once.
#[tokio::test(flavor = "multi_thread")]
async fn an_organization_connects_so_many_servers() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.owner.change_plan(&world.org, api::identity::Plan::Starter).await.unwrap();
    let connect = format!("{SERVERS}/ConnectServer");
    let developer = world.developer.refused(&connect, world.here(draft("a.example.com"))).await;
    assert_eq!(developer, "MISSING_PERMISSION");
    let made = world.admin.tell(&connect, world.here(draft("a.example.com"))).await;
    assert!(text(&made["agentToken"]).starts_with("tny_agt_"));
    assert_eq!(made["server"]["health"], "SERVER_HEALTH_DISCONNECTED");
    let twice = world.admin.refused(&connect, world.here(draft("A.example.com"))).await;
    assert_eq!(twice, "SERVER_EXISTS");
    world.admin.tell(&connect, world.here(draft("b.example.com"))).await;
    let more = world.admin.refused(&connect, world.here(draft("c.example.com"))).await;
    assert_eq!(more, "SERVER_LIMIT_REACHED");
    let list = world.viewer.tell(&format!("{SERVERS}/ListServers"), world.here(json!({}))).await;
    let own = list["servers"].as_array().unwrap().iter().filter(|it| it["shared"] != true).count();
    assert_eq!(own, 2, "{list}");
    assert!(!list.to_string().contains("tny_agt_"));
    suite.finish().await;
}

/// PL-21: a shared server shows nothing of itself, and cannot be changed by anybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_server_shows_nothing_of_itself() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    let list = it.owner().tell(&format!("{SERVERS}/ListServers"), it.world.here(json!({}))).await;
    let shared = list["servers"].as_array().unwrap()[0].clone();
    let fields: Vec<_> = shared.as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, ["health", "id", "name", "shared"], "{shared}");
    let id = json!({ "serverId": shared["id"] });
    let remove = it.owner().refused(&format!("{SERVERS}/RemoveServer"), it.world.here(id)).await;
    assert_eq!(remove, "NOT_FOUND");
    suite.finish().await;
}

/// The agent token is the server: another one, an old one or none opens nothing, and it reaches no other
/// server's tasks.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_token_is_one_server() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
    hand.beat().await;
    let elsewhere = it.environment("shared", "DEVELOPMENT").await;
    it.run("Deploy", &elsewhere, json!({})).await;
    let own = hand.environment("own").await;
    let task = it.queue("Deploy", &own, json!({})).await;
    let other = it.world.here(json!({ "name": "eu-2", "address": "eu-2.example.com" }));
    let other = it.owner().tell(&format!("{SERVERS}/ConnectServer"), other).await;
    let other = suite.client.with_token(&text(&other["agentToken"]));
    let lease = json!({ "runner": "x" });
    let none = other.ask("project.v1.RunnerService/LeaseTask", lease.clone()).await.unwrap();
    assert_eq!(none["lease"], Value::Null);
    let lease_of_own = hand.lease().await;
    assert_eq!(lease_of_own["taskId"], json!(task));
    let steal = json!({ "runner": "x", "taskId": task, "leaseId": lease_of_own["leaseId"],
        "errorMessage": "no" });
    let stolen = other.ask("project.v1.RunnerService/FinishTask", steal).await.unwrap_err();
    assert_eq!(stolen.reason, "NOT_FOUND");

    let rotate = it.world.here(json!({ "serverId": hand.server }));
    let rotated = it.owner().tell(&format!("{SERVERS}/RotateServerToken"), rotate).await;
    assert_eq!(hand.say("LeaseTask", json!({})).await.unwrap_err(), "INVALID_CREDENTIAL");
    let renewed = suite.client.with_token(&text(&rotated["agentToken"]));
    renewed.ask("project.v1.RunnerService/Heartbeat", lease).await.unwrap();
    // It is no credential of a person.
    let project = it.world.there(json!({}));
    let person = renewed.ask("project.v1.ProjectService/GetProject", project).await.unwrap_err();
    assert_eq!(person.reason, "INVALID_CREDENTIAL");
    assert_ne!(hand.token, text(&rotated["agentToken"]));
    suite.finish().await;
}

/// PE-19, PE-21, PE-22, PE-23, PL-19, PL-20: what is placed takes room until it is gone; a server that does
/// not call takes nothing on; one in use stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_takes_what_it_has_room_for_and_nothing_when_it_is_gone() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
    let create = format!("{ENVIRONMENTS}/CreateEnvironment");
    let sized = |name: &str, memory: i32| {
        let resources = json!({ "cpuCores": 0.5, "memoryMb": memory, "diskGb": 5 });
        it.world.there(json!({ "name": name, "serverId": hand.server, "resources": resources }))
    };
    assert_eq!(it.owner().refused(&create, sized("a", 512)).await, "SERVER_UNREACHABLE");
    hand.beat().await;
    let made = it.owner().tell(&create, sized("a", 3_000)).await;
    let a = text(&made["environment"]["id"]);
    let full = it.owner().ask(&create, sized("b", 1_097)).await.unwrap_err();
    assert_eq!(full.reason, "QUOTA_EXCEEDED");
    assert!(full.to_string().contains("1096 memory_mb left"), "{full}");
    it.owner().tell(&create, sized("b", 1_096)).await;
    let update = format!("{ENVIRONMENTS}/UpdateEnvironment");
    let bigger = json!({ "cpuCores": 0.5, "memoryMb": 3_001, "diskGb": 5 });
    let bigger = it.of(&a, json!({ "resources": bigger, "updateMask": "resources" }));
    assert_eq!(it.owner().refused(&update, bigger).await, "QUOTA_EXCEEDED");
    let get = it.world.here(json!({ "serverId": hand.server }));
    let server =
        it.owner().tell(&format!("{SERVERS}/GetServer"), get.clone()).await["server"].clone();
    assert_eq!(
        (&server["allocated"]["memoryMb"], &server["environmentCount"]),
        (&json!(4_096), &json!(2))
    );
    let remove = format!("{SERVERS}/RemoveServer");
    assert_eq!(it.owner().refused(&remove, get.clone()).await, "SERVER_IN_USE");

    // A disk that is in use does not shrink below that.
    let used = json!({ "environments": [{ "environmentId": a, "observed": "OBSERVED_STOPPED",
        "diskBytes": "3221225472" }] });
    hand.say("Heartbeat", used).await.unwrap();
    let smaller = json!({ "cpuCores": 0.5, "memoryMb": 3_000, "diskGb": 2 });
    let smaller = it.of(&a, json!({ "resources": smaller, "updateMask": "resources" }));
    assert_eq!(it.owner().refused(&update, smaller).await, "INVALID_FIELD");
    let empty = it.of(&a, json!({ "updateMask": "" }));
    assert_eq!(it.owner().refused(&update, empty).await, "INVALID_FIELD");

    // Its runner goes silent: DEGRADED, then nothing is asked of it, then it is DEAD, and one call mends it.
    let health = async || {
        text(
            &it.owner().tell(&format!("{SERVERS}/GetServer"), get.clone()).await["server"]["health"],
        )
    };
    for (seconds, expected) in [(16, "DEGRADED"), (16, "DISCONNECTED"), (80, "DEAD")] {
        suite.clock.advance(chassis::clock::Duration::seconds(seconds));
        assert_eq!(health().await, format!("SERVER_HEALTH_{expected}"));
    }
    assert_eq!(it.refused("Deploy", &a, json!({})).await, "SERVER_UNREACHABLE");
    let told = "select count(*) from project.outbox where type = 'tenantry.project.v1.ServerHealthChanged'";
    eventually("word of it", async || (suite.count(told).await >= 2).then_some(())).await;
    let force = json!({ "confirmName": "a", "force": true });
    let destroy = format!("{ENVIRONMENTS}/DestroyEnvironment");
    let dropped = it.owner().tell(&destroy, it.of(&a, force)).await;
    assert_eq!(dropped["environment"]["state"], "ENVIRONMENT_STATE_DELETED");
    // When it comes back, it is told what to remove.
    let back = json!({ "environments": [{ "environmentId": a, "observed": "OBSERVED_RUNNING" }] });
    let back = hand.say("Heartbeat", back).await.unwrap();
    assert_eq!(back["unknownEnvironmentIds"], json!([a]));
    assert_eq!(health().await, "SERVER_HEALTH_HEALTHY");
    suite.finish().await;
}
