//! The runner of a connected server, as the program that it is: killed at any moment, it goes on where it
//! was.

use std::{net::SocketAddr, path::Path};

use serde_json::json;
use testkit::{Process, Suite, eventually};

use crate::{
    hosting::{ENVIRONMENTS, Hosting, visit},
    tasks::Hand,
    world::text,
};

fn arguments(at: SocketAddr, token: &Path, folder: &Path) -> Vec<String> {
    vec![
        format!("--project-url=http://{at}"),
        format!("--agent-token-file={}", token.display()),
        format!("--data-dir={}", folder.join("work").display()),
    ]
}

fn start(at: SocketAddr, token: &Path, folder: &Path) -> Process {
    let arguments = arguments(at, token, folder);
    Process::start("tenantry-runner", &arguments, &folder.join("log"))
}

/// A server that is really there, with its program.
async fn connect(suite: &Suite, folder: &Path) -> (Hosting, String, Process) {
    connect_with(suite, folder, start).await
}

async fn connect_with(
    suite: &Suite,
    folder: &Path,
    start: impl FnOnce(SocketAddr, &Path, &Path) -> Process,
) -> (Hosting, String, Process) {
    let hand = Hand::new(suite).await;
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(folder.join("token"), &hand.token).unwrap();
    let runner = start(suite.address, &folder.join("token"), folder);
    let seen =
        "select count(*) from project.server where org_id is not null and health = 'healthy'";
    eventually("its runner", async || (suite.count(seen).await == 1).then_some(())).await;
    let draft = json!({ "name": "main", "serverId": hand.server });
    let id = hand.hosting.environment_with(draft).await;
    (hand.hosting, id, runner)
}

/// PE-36, G-18: killed while it fetches and builds, while it starts, and while it serves, the next runner
/// brings the task to its end; what serves goes on meanwhile, and nothing of what was killed is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_runner_is_followed_by_one_that_goes_on() {
    let suite = Suite::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (it, id, mut runner) = connect(&suite, folder.path()).await;
    assert_eq!(it.run("Deploy", &id, json!({})).await["state"], "TASK_STATE_COMPLETED");
    let again = |runner: Process| {
        runner.kill();
        start(suite.address, &folder.path().join("token"), folder.path())
    };
    let url = text(&it.get(&id).await["url"]);
    runner = again(runner);
    assert!(visit(&url, "/").await.is_some(), "what is deployed lives without a runner");

    let gate = folder.path().join("work").join(&id).join("data").join("gate");
    let wait = "while [ ! -e $DATA_DIR/gate ]; do sleep 0.1; done";
    // In the build, then in the start: at each the program waits until it may go on.
    for (step, build, run) in [
        ("build", format!("echo at the gate; {wait}"), "perl server.pl".to_owned()),
        ("start", "true".to_owned(), format!("sh -c '{wait}; exec perl server.pl'")),
    ] {
        let manifest = format!("[build]\ncommand = \"{build}\"\n[run]\ncommand = \"{run}\"\n");
        it.repository.write("tenantry.toml", &manifest);
        it.repository.commit(step);
        let _ = std::fs::remove_file(&gate);
        let task = it.queue("Deploy", &id, json!({})).await;
        let there = async || {
            let now = it.task(&task).await;
            (now["currentStep"] == step).then_some(())
        };
        eventually("the step", there).await;
        runner = again(runner);
        assert!(visit(&url, "/").await.is_some() || step == "start", "the old version serves on");
        // Its lease runs out; the next runner starts over, and this time nobody stands in the way.
        std::fs::write(&gate, "").unwrap();
        suite.clock.advance(chassis::clock::Duration::seconds(16));
        let task = it.ended(&task).await;
        assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{step}: {task}");
        let page = it.page(&id, "/").await;
        assert!(page.starts_with(step), "{step}: {page}");
    }
    let sure = json!({ "confirmName": "main" });
    assert_eq!(it.run("Destroy", &id, sure).await["state"], "TASK_STATE_COMPLETED");
    assert!(!folder.path().join("work").join(&id).exists());
    assert!(runner.stop(), "it drains");
    suite.finish().await;
}

/// A runner that cannot start says why.
#[test]
fn a_runner_without_a_token_says_what_to_do() {
    let said = |arguments: &[&str]| {
        let output = Process::run("tenantry-runner", arguments);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&[]).contains("ServerService/ConnectServer"));
    assert!(said(&["--agent-token=x"]).contains("begins with tny_agt_"));
    let far = ["--agent-token=tny_agt_x", "--project-url=http://example.com:1"];
    assert!(said(&far).contains("use https://"), "{}", said(&far));
}

/// A runner without rights sandboxes what its owner deploys, and its health says what it cannot give; asked
/// for more, it refuses and says what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_without_rights_says_what_it_cannot_give() {
    let suite = Suite::start().await;
    let folder = tempfile::tempdir().unwrap();
    let plain = |extra: &'static [&'static str]| {
        move |at: SocketAddr, token: &Path, folder: &Path| {
            let mut all = arguments(at, token, folder);
            all.extend(extra.iter().map(|it| (*it).to_owned()));
            Process::start_unprivileged("tenantry-runner", &all, folder, &folder.join("log"))
        }
    };
    let (it, id, runner) = connect_with(&suite, folder.path(), plain(&[])).await;
    let deployed = it.run("Deploy", &id, json!({})).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
    let page = it.page(&id, "/").await;
    assert!(page.starts_with("one") && !page.contains("uid: 0\n"), "{page}");
    let method = format!("{ENVIRONMENTS}/GetEnvironmentHealth");
    let known = "bubblewrap; the runner's account; the machine's network";
    eventually("its health", async || {
        let health = it.owner().tell(&method, it.of(&id, json!({}))).await;
        health.to_string().contains(known).then_some(())
    })
    .await;
    runner.kill();

    let token = folder.path().join("token");
    let strict = plain(&["--require-isolation"])(suite.address, &token, folder.path());
    let refused = it.run("Restart", &id, json!({})).await;
    assert_eq!(refused["state"], "TASK_STATE_FAILED", "{refused}");
    let error = text(&refused["errorMessage"]);
    let missing = ["an account for each environment", "a network for each environment"];
    assert!(missing.iter().all(|it| error.contains(it)), "{error}");
    strict.kill();
    suite.finish().await;
    testkit::stop_deployments_of_runner(&folder.path().join("work"));
}

/// A program in a network of its own is reached at the address of its server, and is no longer when it stops.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_published_at_the_address_of_its_server() {
    // Without rights a program listens on that address itself.
    let server = if rustix::process::geteuid().is_root() { "10.213.0.1" } else { "127.0.0.1" };
    for bind in [server, "0.0.0.0"] {
        let suite = Suite::start().await;
        let folder = tempfile::tempdir().unwrap();
        let start = |at: SocketAddr, token: &Path, folder: &Path| {
            let mut all = arguments(at, token, folder);
            all.extend([format!("--bind={bind}"), format!("--address={server}")]);
            Process::start("tenantry-runner", &all, &folder.join("log"))
        };
        let (it, id, runner) = connect_with(&suite, folder.path(), start).await;
        let task = it.run("Deploy", &id, json!({})).await;
        assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
        let url = text(&it.get(&id).await["url"]);
        assert!(url.starts_with(&format!("http://{server}:")), "{url}");
        assert!(visit(&url, "/").await.is_some(), "{bind}");
        assert_eq!(it.run("Stop", &id, json!({})).await["state"], "TASK_STATE_COMPLETED");
        assert!(visit(&url, "/").await.is_none(), "{bind}");
        let sure = json!({ "confirmName": "main" });
        assert_eq!(it.run("Destroy", &id, sure).await["state"], "TASK_STATE_COMPLETED");
        assert!(runner.stop(), "it drains");
        suite.finish().await;
    }
}
