//! A private repository over HTTP: its access token reaches git and nothing else.

use std::path::Path;

use api::audit::ExportFormat;
use data_encoding::BASE64;
use serde_json::{Value, json};
use testkit::{GitServer, Process, Suite, stop_deployments_of_runner};

use super::process::{arguments, connect_with};
use crate::support::{
    audit_client::AuditClient,
    hosting::{Hosting, PROJECTS, TASKS},
    sealed_values::require_sealed_values,
    tables::tables_with,
    world::merge,
};

const TOKEN: &str = "glpat-s3cret-t0ken";
const USERNAME: &str = "x-access-token";

/// Connects a server whose runner shares the network of this machine, so that git reaches a loopback address.
/// Returns the project, an environment, and the runner.
async fn connect(suite: &Suite, folder: &Path) -> (Hosting, String, Process) {
    connect_with(suite, folder, |address, token, folder| {
        let arguments = arguments(address, token, folder);
        let log = folder.join("log");
        Process::start_unprivileged("tenantry-runner", &arguments, folder, &log)
    })
    .await
}

/// Changes the repository of the project; returns the changed project.
async fn change_repository(hosting: &Hosting, url: &str, more: Value) -> Value {
    let change = json!({ "repositoryUrl": url, "confirmName": "Hosted" });
    let change = hosting.world.project_request(merge(change, more));
    let method = format!("{PROJECTS}/ChangeRepository");
    hosting.owner().call_ok(&method, change).await["project"].clone()
}

/// Changes the token of the project; returns the changed project.
async fn update_token(hosting: &Hosting, fields: Value) -> Value {
    let update = merge(json!({ "updateMask": "repositoryToken" }), fields);
    let method = format!("{PROJECTS}/UpdateProject");
    let update = hosting.world.project_request(update);
    hosting.owner().call_ok(&method, update).await["project"].clone()
}

/// Log of a task, as text.
pub(super) async fn log_of(hosting: &Hosting, task: &Value) -> String {
    let get = hosting.world.project_request(json!({ "taskId": task["id"] }));
    let task = hosting.owner().call_ok(&format!("{TASKS}/GetTask"), get).await;
    task["task"].to_string()
}

/// Files below a folder that contain a text.
pub(super) fn files_with(folder: &Path, secret: &str) -> Vec<String> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files_with(&path, secret));
        } else {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(secret.len()).any(|it| it == secret.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

/// A repository at a loopback address of this machine is fetched by a runner whose environments have networks
/// of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_at_a_loopback_address_is_deployed() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let server = GitServer::start(hosting.repository.path(), USERNAME, TOKEN).await;
    change_repository(&hosting, &server.url(), json!({ "repositoryToken": TOKEN })).await;
    let deployed = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
    assert!(hosting.page(&id, "/").await.starts_with("one"));
    require_sealed_values(&suite, &["project.project.repository_token"]).await;
    suite.finish().await;
}

/// P-05: a private repository is deployed with its token. The token is in no response, event, export, table,
/// file, log, command line or variable of the build.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_repository_is_deployed_and_its_token_is_nowhere() {
    let suite = Suite::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (hosting, id, process) = connect(&suite, folder.path()).await;
    let manifest = "[build]\ncommand = \"env; cat .git/config .git/FETCH_HEAD; git config --list\"\n\
                    [run]\ncommand = \"perl server.pl\"\n";
    hosting.repository.write("tenantry.toml", manifest);
    hosting.repository.commit("private");
    let server = GitServer::start(hosting.repository.path(), USERNAME, TOKEN).await;
    let mut shown = vec![];

    let without = change_repository(&hosting, &server.url(), json!({})).await;
    assert_eq!(without["hasRepositoryToken"], Value::Null);
    let refused = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(refused["state"], "TASK_STATE_FAILED", "{refused}");

    let project = update_token(&hosting, json!({ "repositoryToken": TOKEN })).await;
    assert_eq!(project["hasRepositoryToken"], true);
    shown.push(project.to_string());
    // A project that is created with a token.
    let create = hosting.world.org_request(json!({
        "name": "Second", "repositoryUrl": server.url(), "repositoryToken": TOKEN,
    }));
    let created = hosting.owner().call_ok(&format!("{PROJECTS}/CreateProject"), create).await;
    assert_eq!(created["project"]["hasRepositoryToken"], true);
    shown.push(created.to_string());

    let deployed = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
    assert!(hosting.page(&id, "/").await.starts_with("private"));
    let build_log = log_of(&hosting, &deployed).await;
    assert!(build_log.contains("PATH=") && !build_log.contains("TENANTRY_GIT"), "{build_log}");
    shown.push(build_log);
    let authorized: Vec<_> = server.requests();
    assert!(authorized.iter().any(|it| !it.authorization.is_empty()));
    for request in authorized {
        assert!(!request.path.contains(TOKEN));
        let is_visible = request.command_lines.iter().any(|it| it.contains(TOKEN));
        assert!(!is_visible, "the token is in the process table");
    }

    // A wrong token fails without being shown.
    let wrong = "wrong-s3cret-t0ken";
    update_token(&hosting, json!({ "repositoryToken": wrong })).await;
    let failed = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(failed["state"], "TASK_STATE_FAILED", "{failed}");
    shown.push(log_of(&hosting, &failed).await);

    let log = AuditClient::new(&suite, hosting.owner(), &hosting.world.org).await;
    log.checkpoint(&suite).await;
    let set = log.entries(json!({ "action": "project.repository_token_set" })).await;
    assert_eq!(set.len(), 2, "{set:?}");
    assert_eq!(set[0]["envelope"]["actor"]["id"], hosting.owner().user_id.as_str());
    shown.push(json!(log.entries(json!({})).await).to_string());
    let list = hosting.world.org_request(json!({}));
    shown
        .push(hosting.owner().call_ok(&format!("{PROJECTS}/ListProjects"), list).await.to_string());
    for format in [ExportFormat::Json, ExportFormat::Csv, ExportFormat::Ocsf] {
        shown.push(String::from_utf8(log.export(format).await).unwrap());
    }
    shown.push(std::fs::read_to_string(folder.path().join("log")).unwrap());
    let basic = BASE64.encode(format!("{USERNAME}:{TOKEN}").as_bytes());
    for secret in [TOKEN, wrong, &basic] {
        for text in &shown {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(tables_with(&suite, secret.as_bytes()).await, Vec::<String>::new());
        assert_eq!(files_with(&folder.path().join("work"), secret), Vec::<String>::new());
        assert_eq!(files_with(suite.data_dir(), secret), Vec::<String>::new());
    }
    process.kill();
    stop_deployments_of_runner(&folder.path().join("work"));
    suite.finish().await;
}

/// P-05: git sends the token to the host and port of the URL only. After a change to another host the token
/// is removed, and a redirect to another host does not get it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_sent_to_the_host_of_its_repository_only() {
    let suite = Suite::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (hosting, id, process) = connect(&suite, folder.path()).await;
    let other = GitServer::start(hosting.repository.path(), USERNAME, TOKEN).await;
    let server = GitServer::redirecting(&other.base_url(), USERNAME, TOKEN).await;
    let token = json!({ "repositoryToken": TOKEN });
    let project = change_repository(&hosting, &server.url(), token).await;
    assert_eq!(project["hasRepositoryToken"], true);
    let redirected = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(redirected["state"], "TASK_STATE_FAILED", "{redirected}");
    assert!(server.requests().iter().any(|it| !it.authorization.is_empty()));
    assert!(!other.requests().is_empty(), "git followed the redirect");
    assert!(other.requests().iter().all(|it| it.authorization.is_empty()));

    // An empty token keeps the stored one; so does another path on the same host.
    let kept = update_token(&hosting, json!({ "repositoryToken": "" })).await;
    assert_eq!(kept["hasRepositoryToken"], true);
    let same_host = format!("{}/other.git", server.base_url());
    let kept = change_repository(&hosting, &same_host, json!({})).await;
    assert_eq!(kept["hasRepositoryToken"], true);
    let removed = change_repository(&hosting, &other.url(), json!({})).await;
    assert_eq!(removed["hasRepositoryToken"], Value::Null);
    let before = other.requests().len();
    let failed = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(failed["state"], "TASK_STATE_FAILED", "{failed}");
    assert!(other.requests()[before..].iter().all(|it| it.authorization.is_empty()));

    update_token(&hosting, json!({ "repositoryToken": format!("{USERNAME}:{TOKEN}") })).await;
    let deployed = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
    let removed = update_token(&hosting, json!({ "removeRepositoryToken": true })).await;
    assert_eq!(removed["hasRepositoryToken"], Value::Null);
    let failed = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(failed["state"], "TASK_STATE_FAILED", "{failed}");

    let method = format!("{PROJECTS}/UpdateProject");
    let both = json!({
        "updateMask": "repositoryToken", "repositoryToken": TOKEN, "removeRepositoryToken": true,
    });
    let both = hosting.world.project_request(both);
    assert_eq!(hosting.owner().call_err(&method, both).await, "INVALID_FIELD");
    let method = format!("{PROJECTS}/ChangeRepository");
    let ssh = json!({
        "repositoryUrl": "ssh://git@git.example.com/a", "confirmName": "Hosted",
        "repositoryToken": TOKEN,
    });
    let ssh = hosting.owner().call(&method, hosting.world.project_request(ssh)).await.unwrap_err();
    assert_eq!(ssh.reason, "INVALID_FIELD");
    assert!(!ssh.to_string().contains(TOKEN), "{ssh}");
    assert!(ssh.to_string().contains("https://"), "{ssh}");
    process.kill();
    stop_deployments_of_runner(&folder.path().join("work"));
    suite.finish().await;
}
