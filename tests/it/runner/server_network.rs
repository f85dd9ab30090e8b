//! A server in a network of its own, whose link to the suite and to visitors is cut.

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::support::{
    server_network::ServerNetwork,
    web_site::{APPS_DOMAIN, Proxy, RunnerAccount, WebSite},
};

/// A build that counts its runs, and waits for a file.
const MANIFEST: &str = r#"[build]
command = "echo run >> $DATA_DIR/builds; while [ ! -e $DATA_DIR/gate ]; do sleep 0.1; done"
[run]
command = "exec perl server.pl"
"#;

fn record(site: &WebSite, id: &str) -> Value {
    let file = site.data_dir().join(id).join("record.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Programs go on, and a deployment that completes meanwhile is reported when the link is back, and is not
/// repeated.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_cut_off_reports_what_it_did() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let suite = Suite::start().await;
    let gateway = testkit::start_gateway(suite.address).await;
    let mut proxy = Proxy::new(APPS_DOMAIN);
    proxy.arguments = vec!["--driver=process".to_owned()];
    proxy.network = Some(ServerNetwork::new(suite.address.port(), gateway));
    let site = WebSite::with_proxy(&suite, RunnerAccount::Own, proxy).await;
    let id = site.environment("main").await;
    site.run("Deploy", &id, json!({})).await;
    let url = site.url(&id).await;
    let page = async || {
        let response = site.visitor(&["main-hosted"]).get(&url).send().await.ok()?;
        response.text().await.ok()
    };
    assert!(page().await.expect("a page").starts_with("one\n"), "reached by its name");

    site.hosting.repository.write("tenantry.toml", MANIFEST);
    site.hosting.repository.commit("two");
    let before = record(&site, &id);
    let task = site.hosting.start_task("Deploy", &id, json!({})).await;
    let data = site.data_dir().join(&id).join("data");
    eventually("the build", async || data.join("builds").exists().then_some(())).await;
    site.network().cut();
    assert_eq!(record(&site, &id), before, "the same program");
    // Longer than a lease (15 s), and than a server without heartbeats counts as healthy.
    suite.clock.advance(chassis::clock::Duration::minutes(2));
    let unhealthy = "select count(*) from project.server where org_id is not null and \
                     health <> 'healthy'";
    eventually("the missing heartbeat", async || (suite.count(unhealthy).await == 1).then_some(()))
        .await;
    std::fs::write(data.join("gate"), "").unwrap();
    eventually("the new version", async || {
        (record(&site, &id)["release"] != before["release"]).then_some(())
    })
    .await;
    let during = record(&site, &id)["process"].clone();
    site.network().restore();

    let task = site.hosting.finished_task(&task).await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    assert!(page().await.expect("a page").starts_with("two\n"));
    let healthy = "select count(*) from project.server where org_id is not null and \
                   health = 'healthy'";
    eventually("a heartbeat", async || (suite.count(healthy).await == 1).then_some(())).await;
    let builds = std::fs::read_to_string(data.join("builds")).unwrap();
    assert_eq!(builds, "run\n", "built once");
    assert_eq!(record(&site, &id)["process"], during, "started once");
    site.run("Destroy", &id, json!({ "confirmName": "main" })).await;
    site.finish(suite).await;
}
