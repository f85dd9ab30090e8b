//! Host names of environments: assigned at the first start on a server with an apps domain, unique among all
//! environments, and unchanged afterwards.

use serde_json::{Value, json};
use testkit::Suite;

use crate::support::{
    fake_runner::{FakeRunner, success_result},
    hosting::PROJECTS,
    world::text,
};

async fn heartbeat(fake: &FakeRunner, apps_domain: &str) {
    fake.call("Heartbeat", json!({ "appsDomain": apps_domain })).await.unwrap();
}

/// Deploys an environment; returns its lease.
async fn deploy(fake: &FakeRunner, id: &str) -> Value {
    let task = fake.hosting.start_task("Deploy", id, json!({})).await;
    let lease = fake.lease_task().await;
    assert_eq!(lease["taskId"], task.as_str(), "{lease}");
    fake.finish_task(&lease, success_result()).await.unwrap();
    lease
}

async fn hostname(fake: &FakeRunner, id: &str) -> String {
    text(&fake.hosting.get(id).await["hostname"])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_keeps_the_host_name_of_its_first_start() {
    let suite = Suite::start().await;
    let fake = FakeRunner::new(&suite).await;
    fake.heartbeat().await;
    let id = fake.environment("Main Shop").await;
    assert_eq!(text(&deploy(&fake, &id).await["hostname"]), "");
    assert_eq!(hostname(&fake, &id).await, "", "the server has no apps domain");

    for invalid in ["localhost", "*.example", "Apps.example", "a b.example", "10.0.0.1"] {
        heartbeat(&fake, invalid).await;
        assert_eq!(text(&deploy(&fake, &id).await["hostname"]), "", "{invalid}");
    }
    heartbeat(&fake, "apps.example").await;
    let server = fake.hosting.world.org_request(json!({ "serverId": fake.server }));
    let server = fake.hosting.owner().call_ok("project.v1.ServerService/GetServer", server).await;
    assert_eq!(server["server"]["appsDomain"], "apps.example");
    let expected = "main-shop-hosted.apps.example";
    assert_eq!(deploy(&fake, &id).await["hostname"], expected);
    assert_eq!(hostname(&fake, &id).await, expected);

    let rename = json!({ "name": "Other", "updateMask": "name" });
    let rename = fake.hosting.request(&id, rename);
    let update = "project.v1.EnvironmentService/UpdateEnvironment";
    fake.hosting.owner().call_ok(update, rename).await;
    assert_eq!(deploy(&fake, &id).await["hostname"], expected, "a new name changes no address");
    let stop = fake.hosting.start_task("Stop", &id, json!({})).await;
    let lease = fake.lease_task().await;
    assert_eq!((&lease["taskId"], &lease["hostname"]), (&json!(stop), &json!(expected)));
    fake.finish_task(&lease, json!({})).await.unwrap();
    assert_eq!(hostname(&fake, &id).await, expected, "also while it is stopped");

    heartbeat(&fake, "apps.test").await;
    assert_eq!(deploy(&fake, &id).await["hostname"], "other-hosted.apps.test");
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_environments_have_the_same_host_name() {
    let suite = Suite::start().await;
    let mut fake = FakeRunner::new(&suite).await;
    heartbeat(&fake, "apps.example").await;
    let first = fake.environment("a").await;
    let first_project = fake.hosting.world.project.clone();
    // The other project has the slug `x-hosted`, so both labels are `a-x-hosted`.
    let second = fake.environment("a x").await;
    assert_eq!(deploy(&fake, &second).await["hostname"], "a-x-hosted.apps.example");
    let url = fake.hosting.repository.url();
    let create =
        fake.hosting.world.org_request(json!({ "name": "x Hosted", "repositoryUrl": url }));
    let created = fake.hosting.owner().call_ok(&format!("{PROJECTS}/CreateProject"), create).await;
    fake.hosting.world.project = text(&created["project"]["id"]);
    let third = fake.environment("a").await;
    let clashing = text(&deploy(&fake, &third).await["hostname"]);
    let suffix = clashing.strip_prefix("a-x-hosted-").unwrap();
    assert_eq!(suffix.strip_suffix(".apps.example").unwrap().len(), 4, "{clashing}");
    assert_eq!(hostname(&fake, &third).await, clashing);

    let long = fake.environment("long ".repeat(40).trim_end()).await;
    let long = text(&deploy(&fake, &long).await["hostname"]);
    assert!(long.split_once('.').unwrap().0.len() <= 63, "{long}");

    // The host name is free again after the environment is gone.
    fake.hosting.world.project = first_project;
    fake.hosting.start_task("Destroy", &second, json!({ "confirmName": "a x" })).await;
    let lease = fake.lease_task().await;
    fake.finish_task(&lease, json!({})).await.unwrap();
    let again = fake.environment("A.X").await;
    assert_eq!(deploy(&fake, &again).await["hostname"], "a-x-hosted.apps.example");
    assert_eq!(deploy(&fake, &first).await["hostname"], "a-hosted.apps.example");
    suite.finish().await;
}
