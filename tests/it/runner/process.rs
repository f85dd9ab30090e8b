//! The runner of a connected server as a process: recovery after kills, start errors, missing privileges.

use std::{net::SocketAddr, path::Path};

use serde_json::json;
use testkit::{Process, Repository, Suite, eventually};

use crate::support::{
    fake_runner::FakeRunner,
    hosting::{ENVIRONMENTS, Hosting, PROJECTS, TASKS, visit},
    suite_process::SuiteProcess,
    world::{merge, text},
};

/// Command line of a runner.
pub(super) fn arguments(address: SocketAddr, token: &Path, folder: &Path) -> Vec<String> {
    vec![
        format!("--project-url=http://{address}"),
        format!("--agent-token-file={}", token.display()),
        format!("--data-dir={}", folder.join("work").display()),
    ]
}

fn start(address: SocketAddr, token: &Path, folder: &Path) -> Process {
    let arguments = arguments(address, token, folder);
    Process::start("tenantry-runner", &arguments, &folder.join("log"))
}

/// Connects a server with a runner process; returns the project, an environment on the server, and the
/// process.
async fn connect(suite: &Suite, folder: &Path) -> (Hosting, String, Process) {
    connect_with(suite, folder, start).await
}

/// Connects a server with a runner that `start` starts.
pub(super) async fn connect_with(
    suite: &Suite,
    folder: &Path,
    start: impl FnOnce(SocketAddr, &Path, &Path) -> Process,
) -> (Hosting, String, Process) {
    let fake = FakeRunner::new(suite).await;
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(folder.join("token"), &fake.token).unwrap();
    let process = start(suite.address, &folder.join("token"), folder);
    let healthy =
        "select count(*) from project.server where org_id is not null and health = 'healthy'";
    eventually("a heartbeat", async || (suite.count(healthy).await == 1).then_some(())).await;
    let create = json!({ "name": "main", "serverId": fake.server });
    let id = fake.hosting.create_environment(create).await;
    (fake.hosting, id, process)
}

/// PE-36, G-18: after a kill during a build, a start or normal operation the next runner process completes
/// the task; the deployed program keeps serving, and no process of the killed attempt is left.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_runner_completes_the_task_of_a_killed_one() {
    let suite = Suite::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (hosting, id, mut process) = connect(&suite, folder.path()).await;
    assert_eq!(hosting.run_task("Deploy", &id, json!({})).await["state"], "TASK_STATE_COMPLETED");
    let kill_and_restart = |process: Process| {
        process.kill();
        start(suite.address, &folder.path().join("token"), folder.path())
    };
    let url = text(&hosting.get(&id).await["url"]);
    process = kill_and_restart(process);
    assert!(visit(&url, "/").await.is_some(), "a deployed program does not need the runner");

    let gate = folder.path().join("work").join(&id).join("data").join("gate");
    let wait = "while [ ! -e $DATA_DIR/gate ]; do sleep 0.1; done";
    // The build, then the start, waits for a file.
    for (step, build, run) in [
        ("build", format!("echo waiting; {wait}"), "perl server.pl".to_owned()),
        ("start", "true".to_owned(), format!("sh -c '{wait}; exec perl server.pl'")),
    ] {
        let manifest = format!("[build]\ncommand = \"{build}\"\n[run]\ncommand = \"{run}\"\n");
        hosting.repository.write("tenantry.toml", &manifest);
        hosting.repository.commit(step);
        let _ = std::fs::remove_file(&gate);
        let task = hosting.start_task("Deploy", &id, json!({})).await;
        let is_at_step = async || {
            let current = hosting.task(&task).await;
            (current["currentStep"] == step).then_some(())
        };
        eventually("the step", is_at_step).await;
        process = kill_and_restart(process);
        assert!(
            visit(&url, "/").await.is_some() || step == "start",
            "the old version still serves"
        );
        // The lease expires; the next runner process starts the task again and finds the file.
        std::fs::write(&gate, "").unwrap();
        suite.clock.advance(chassis::clock::Duration::seconds(16));
        let task = hosting.finished_task(&task).await;
        assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{step}: {task}");
        let page = hosting.page(&id, "/").await;
        assert!(page.starts_with(step), "{step}: {page}");
    }
    let destroy = json!({ "confirmName": "main" });
    assert_eq!(hosting.run_task("Destroy", &id, destroy).await["state"], "TASK_STATE_COMPLETED");
    assert!(!folder.path().join("work").join(&id).exists());
    assert!(process.stop(), "the runner drains");
    suite.finish().await;
}

/// Changes the address of the server of an environment.
async fn set_server_address(hosting: &Hosting, environment: &str, address: &str) {
    let server = hosting.get(environment).await["serverId"].clone();
    let update = json!({ "serverId": server, "address": address, "updateMask": "address" });
    let update = hosting.world.org_request(update);
    hosting.owner().call_ok("project.v1.ServerService/UpdateServer", update).await;
}

/// A runner that cannot start prints the reason and the remedy.
#[test]
fn a_runner_without_a_token_prints_the_remedy() {
    let error = |arguments: &[&str]| {
        let output = Process::run("tenantry-runner", arguments);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(error(&[]).contains("ServerService/ConnectServer"));
    assert!(error(&["--agent-token=x"]).contains("begins with tny_agt_"));
    let plain_http = ["--agent-token=tny_agt_x", "--project-url=http://example.com:1"];
    assert!(error(&plain_http).contains("use https://"), "{}", error(&plain_http));
}

/// An unprivileged runner deploys into a sandbox, and the health of the environment lists its limits; with
/// `--require-isolation` it fails tasks and names the missing isolation.
#[tokio::test(flavor = "multi_thread")]
async fn an_unprivileged_runner_reports_its_limits() {
    let suite = Suite::start().await;
    let folder = tempfile::tempdir().unwrap();
    let unprivileged = |extra: &'static [&'static str]| {
        move |address: SocketAddr, token: &Path, folder: &Path| {
            let mut all = arguments(address, token, folder);
            all.extend(extra.iter().map(|it| (*it).to_owned()));
            Process::start_unprivileged("tenantry-runner", &all, folder, &folder.join("log"))
        }
    };
    let (hosting, id, process) = connect_with(&suite, folder.path(), unprivileged(&[])).await;
    let deployed = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
    let page = hosting.page(&id, "/").await;
    assert!(page.starts_with("one") && !page.contains("uid: 0\n"), "{page}");
    let method = format!("{ENVIRONMENTS}/GetEnvironmentHealth");
    let limits = "bubblewrap; the runner's account; the machine's network";
    eventually("the limits", async || {
        let health = hosting.owner().call_ok(&method, hosting.request(&id, json!({}))).await;
        health.to_string().contains(limits).then_some(())
    })
    .await;
    process.kill();

    let token = folder.path().join("token");
    let strict = unprivileged(&["--require-isolation"])(suite.address, &token, folder.path());
    let refused = hosting.run_task("Restart", &id, json!({})).await;
    assert_eq!(refused["state"], "TASK_STATE_FAILED", "{refused}");
    let error = text(&refused["errorMessage"]);
    let missing = ["an account for each environment", "a network for each environment"];
    assert!(missing.iter().all(|it| error.contains(it)), "{error}");
    strict.kill();
    suite.finish().await;
    testkit::stop_deployments_of_runner(&folder.path().join("work"));
}

/// A program in its own network namespace is published, while it runs, at the address that its server was
/// connected with; `--address` of the runner replaces that in URLs.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_published_at_the_address_of_its_server() {
    // Unprivileged programs listen on the address themselves, and on a loopback address they have no other
    // URL.
    let (server, binds) = if rustix::process::geteuid().is_root() {
        ("10.213.0.1", vec!["10.213.0.1", "0.0.0.0"])
    } else {
        ("127.0.0.1", vec!["0.0.0.0"])
    };
    for bind in binds {
        let suite = Suite::start().await;
        let folder = tempfile::tempdir().unwrap();
        let start = |more: Option<&str>, folder: &Path| {
            let mut all = arguments(suite.address, &folder.join("token"), folder);
            all.push(format!("--bind={bind}"));
            all.extend(more.map(str::to_owned));
            Process::start("tenantry-runner", &all, &folder.join("log"))
        };
        let first = |_: SocketAddr, _: &Path, folder: &Path| start(None, folder);
        let (hosting, id, process) = connect_with(&suite, folder.path(), first).await;
        set_server_address(&hosting, &id, server).await;
        let task = hosting.run_task("Deploy", &id, json!({})).await;
        assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
        let url = text(&hosting.get(&id).await["url"]);
        assert!(url.starts_with(&format!("http://{server}:")), "{url}");
        assert!(visit(&url, "/").await.is_some(), "{bind}");

        set_server_address(&hosting, &id, "eu-2.example.com").await;
        hosting.run_task("Restart", &id, json!({})).await;
        let moved = text(&hosting.get(&id).await["url"]);
        assert!(moved.starts_with("http://eu-2.example.com:"), "{moved}");
        assert!(process.stop(), "the runner drains");
        let process = start(Some("--address=apps.example.com"), folder.path());
        hosting.run_task("Restart", &id, json!({})).await;
        let renamed = text(&hosting.get(&id).await["url"]);
        assert!(renamed.starts_with("http://apps.example.com:"), "{renamed}");

        assert_eq!(hosting.run_task("Stop", &id, json!({})).await["state"], "TASK_STATE_COMPLETED");
        assert!(visit(&url, "/").await.is_none(), "{bind}");
        let destroy = json!({ "confirmName": "main" });
        assert_eq!(
            hosting.run_task("Destroy", &id, destroy).await["state"],
            "TASK_STATE_COMPLETED"
        );
        assert!(process.stop(), "the runner drains");
        suite.finish().await;
    }
}

/// A shared server without full isolation runs no code of organizations, unless its operator says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_server_without_isolation_runs_no_code() {
    let mut suite = SuiteProcess::start_unprivileged().await;
    let ann = suite.person("ann@example.com").await;
    let repository = Repository::new("one");
    let ids = json!({ "orgId": ann.create_organization("acme").await.unwrap() });
    let create = json!({ "name": "Shop", "repositoryUrl": repository.url() });
    let created =
        ann.call_ok(&format!("{PROJECTS}/CreateProject"), merge(ids.clone(), create)).await;
    let ids = merge(ids, json!({ "projectId": created["project"]["id"] }));
    for (weak_isolation, state) in [(false, "TASK_STATE_FAILED"), (true, "TASK_STATE_COMPLETED")] {
        if weak_isolation {
            suite.kill();
            suite.add_flag("--allow-weak-isolation=true");
            suite.start_again().await;
        }
        let ann = ann.with_client(&suite.client);
        let create = json!({ "name": format!("weak-{weak_isolation}"), "deployNow": true });
        let create = merge(ids.clone(), create);
        let created = ann.call_ok(&format!("{ENVIRONMENTS}/CreateEnvironment"), create).await;
        let get = merge(ids.clone(), json!({ "taskId": created["task"]["id"] }));
        let task = eventually("the end of the task", async || {
            let task = ann.call_ok(&format!("{TASKS}/GetTask"), get.clone()).await["task"].clone();
            task["completeTime"].is_string().then_some(task)
        })
        .await;
        assert_eq!(task["state"], state, "{task}");
        let error = text(&task["errorMessage"]);
        let expected = "start `tenantry` with --allow-weak-isolation true";
        assert_eq!(error.contains(expected), !weak_isolation, "{error}");
    }
    suite.stop();
}
