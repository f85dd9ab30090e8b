//! Resources of a machine that all environments of its runners share: the database server of environments,
//! programs of the runner, and the rules of the network.

use std::{path::Path, process::Command};

use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use testkit::{Process, Suite, eventually};

use super::process::{arguments, connect_with};
use crate::support::hosting::{ENVIRONMENTS, Hosting};

async fn attach_database(hosting: &Hosting) {
    let attach = hosting.world.project_request(json!({ "addonKey": "postgresql" }));
    hosting.owner().call_ok("project.v1.AddonService/AttachAddon", attach).await;
}

async fn deploy(hosting: &Hosting, id: &str) {
    let deployed = hosting.run_task("Deploy", id, json!({})).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
}

/// URL of the database of an environment, from the page of its program.
async fn database_url(hosting: &Hosting, id: &str) -> String {
    let page = hosting.page(id, "/").await;
    page.lines().find_map(|it| it.strip_prefix("db: ")).unwrap_or_default().to_owned()
}

/// The database server of environments ends with its last database, and is created again when it is needed.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_server_ends_with_its_last_database() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    attach_database(&hosting).await;
    let server = suite.data_dir().join("runner/services/postgres");
    for name in ["first", "second"] {
        let [id, other] = [name.to_owned(), format!("{name}-other")];
        let [id, other] = [
            hosting.environment(&id, "DEVELOPMENT").await,
            hosting.environment(&other, "DEVELOPMENT").await,
        ];
        deploy(&hosting, &id).await;
        deploy(&hosting, &other).await;
        let pid = std::fs::read_to_string(server.join("postmaster.pid")).unwrap();
        let process = Path::new("/proc").join(pid.lines().next().unwrap());
        hosting.run_task("Destroy", &id, json!({ "confirmName": name })).await;
        let url = database_url(&hosting, &other).await;
        PgConnection::connect(&url).await.expect("the server has another database");
        let destroy = json!({ "confirmName": format!("{name}-other") });
        hosting.run_task("Destroy", &other, destroy).await;
        assert!(!server.exists() && !process.exists(), "{name}");
    }
    suite.finish().await;
}

/// True if a process of PostgreSQL's tools restores a database.
fn is_restored(database: &str) -> bool {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = all.filter_map(|it| std::fs::read_to_string(it.path().join("cmdline")).ok());
    lines.any(|it| it.contains("pg_restore") && it.contains(database))
}

/// The tools that copy a database end with the runner, also if it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn no_database_tool_outlives_a_killed_runner() {
    let suite = Suite::start().await;
    let folder = tempfile::tempdir().unwrap();
    let start = |address, token: &Path, folder: &Path| {
        let arguments = arguments(address, token, folder);
        Process::start("tenantry-runner", &arguments, &folder.join("log"))
    };
    let (hosting, id, process) = connect_with(&suite, folder.path(), start).await;
    attach_database(&hosting).await;
    deploy(&hosting, &id).await;
    let url = database_url(&hosting, &id).await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    // The constraint is checked for each restored row, in the copy only.
    let slow = "create function public.f(integer) returns boolean language plpgsql as $$ begin \
                  if current_database() like '%_incoming' then perform pg_sleep(3600); end if; \
                  return true; end $$; \
                create table t (n integer check (public.f(n))); insert into t values (1);";
    connection.execute(slow).await.unwrap();
    let clone = hosting.request(&id, json!({ "name": "copy" }));
    let clone: Value =
        hosting.owner().call_ok(&format!("{ENVIRONMENTS}/CloneEnvironment"), clone).await;
    let copy = clone["environment"]["id"].as_str().unwrap().replace('-', "");
    eventually("the restored copy", async || is_restored(&copy).then_some(())).await;
    process.kill();
    eventually("the end of pg_restore", async || (!is_restored(&copy)).then_some(())).await;
    testkit::stop_deployments_of_runner(&folder.path().join("work"));
    suite.finish().await;
}

/// Several runners of a machine, each with its own network and exceptions, leave the rules of the others.
#[tokio::test(flavor = "multi_thread")]
async fn runners_of_a_machine_keep_the_rules_of_each_other() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let suite = Suite::start().await;
    let folder = tempfile::tempdir().unwrap();
    let with = |extra: [&str; 2]| {
        let extra = extra.map(str::to_owned);
        move |address, token: &Path, folder: &Path| {
            let arguments = [arguments(address, token, folder), extra.to_vec()].concat();
            Process::start("tenantry-runner", &arguments, &folder.join("log"))
        }
    };
    // Private networks of documentation and benchmarks, which no other test uses.
    let first = with(["--network=198.18.0.0/24", "--reachable-networks=198.19.0.0/16"]);
    let (hosting, id, process) = connect_with(&suite, folder.path(), first).await;
    process.kill();
    let second = with(["--network=198.18.1.0/24", "--reachable-networks=198.19.7.0/24"]);
    let process = second(suite.address, &folder.path().join("token"), folder.path());
    deploy(&hosting, &id).await;
    let url = hosting.get(&id).await["url"].as_str().unwrap().to_owned();
    assert!(url.starts_with("http://198.18.1."), "the second runner has networks: {url}");
    let rules = Command::new("nft").args(["list", "table", "inet", "tenantry"]).output().unwrap();
    let rules = String::from_utf8(rules.stdout).unwrap();
    for network in ["10.213.0.0/16", "198.18.0.0/2", "198.19.0.0/16"] {
        assert!(rules.contains(network), "{network}: {rules}");
    }
    process.kill();
    testkit::stop_deployments_of_runner(&folder.path().join("work"));
    for address in ["198.18.0.1/24", "198.18.1.1/24"] {
        Command::new("ip").args(["address", "delete", address, "dev", "tny0"]).output().unwrap();
    }
    for element in ["networks { 198.18.0.0/23 }", "reachable_networks { 198.19.0.0/16 }"] {
        let element = format!("delete element inet tenantry {element}");
        Command::new("nft").arg(element).output().unwrap();
    }
    suite.finish().await;
}
