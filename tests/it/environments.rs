//! Environments that really run: deployed, broken, put back, copied, frozen, destroyed.

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::{
    hosting::{ENVIRONMENTS, Hosting, PROJECTS, TASKS, visit},
    world::text,
};

fn completed(task: &Value) {
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    assert_eq!(task["progressPercent"], 100, "{task}");
}

/// PE-27, PE-33, and 2.7: a version serves until the next one is healthy; one that is broken changes nothing,
/// says its last lines, and can be gone back behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_version_never_serves_and_an_earlier_one_comes_back() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    let id = it.environment("main", "DEVELOPMENT").await;
    assert_eq!(it.state(&id).await, "PENDING");
    assert_eq!(it.refused("Rollback", &id, json!({})).await, "INVALID_STATE");
    let first = it.run("Deploy", &id, json!({ "modules": ["sale", "stock"] })).await;
    completed(&first);
    assert!(first["logLines"].to_string().contains("building"), "{first}");
    assert_eq!((&first["stepsCompleted"], &first["totalSteps"]), (&json!(5), &json!(5)));
    let page = it.page(&id, "/").await;
    assert!(page.starts_with("one\n") && page.contains("modules: sale,stock"), "{page}");
    assert!(!page.contains("uid: 0\n"), "nothing that is deployed is root: {page}");
    assert_eq!(it.refused("Rollback", &id, json!({})).await, "NO_EARLIER_DEPLOYMENT");

    it.repository.commit("");
    let broken = it.run("Deploy", &id, json!({})).await;
    assert_eq!(broken["state"], "TASK_STATE_FAILED");
    assert!(text(&broken["errorMessage"]).ends_with("there is no page"), "{broken}");
    let now = it.get(&id).await;
    assert_eq!(now["state"], "ENVIRONMENT_STATE_ERROR");
    assert_eq!(now["lastError"], broken["errorMessage"]);
    assert!(it.page(&id, "/").await.starts_with("one\n"), "the version before serves on");

    let two = it.repository.commit("two");
    let second = it.run("Deploy", &id, json!({})).await;
    completed(&second);
    assert_eq!((text(&second["commit"]), text(&it.get(&id).await["commit"])), (two.clone(), two));
    assert!(it.page(&id, "/").await.starts_with("two\n"));
    completed(&it.run("Rollback", &id, json!({})).await);
    assert!(it.page(&id, "/").await.starts_with("one\n"));
    assert_eq!(it.get(&id).await["deploymentId"], first["id"]);
    assert_eq!(it.task(&text(&second["id"])).await["rolledBack"], true);
    assert_eq!(it.refused("Rollback", &id, json!({})).await, "NO_EARLIER_DEPLOYMENT");

    // A branch that is gone: it fails, and what serves goes on.
    let update = json!({ "branch": "gone", "updateMask": "branch" });
    let method = format!("{ENVIRONMENTS}/UpdateEnvironment");
    it.owner().tell(&method, it.of(&id, update)).await;
    let gone = it.run("Deploy", &id, json!({})).await;
    assert!(text(&gone["errorMessage"]).contains("git could not fetch the branch"), "{gone}");
    assert!(it.page(&id, "/").await.starts_with("one\n"));
    suite.finish().await;
}

/// PE-29, PE-30, PE-42: each operation does what it says, to the process and to the state; data outlives
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_stopped_started_frozen_and_looked_at() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    let id = it.environment("main", "DEVELOPMENT").await;
    completed(&it.run("Deploy", &id, json!({})).await);
    let url = text(&it.get(&id).await["url"]);
    it.page(&id, "/keep/apples").await;

    completed(&it.run("Stop", &id, json!({})).await);
    assert_eq!(it.state(&id).await, "STOPPED");
    assert_eq!(visit(&url, "/").await, None);
    assert_eq!(it.refused("Stop", &id, json!({})).await, "INVALID_STATE");
    completed(&it.run("Start", &id, json!({})).await);
    assert!(it.page(&id, "/").await.contains("kept: apples"), "its data is still there");
    assert_eq!(it.refused("Start", &id, json!({})).await, "INVALID_STATE");

    completed(&it.run("Pause", &id, json!({})).await);
    let paused = it.get(&id).await;
    assert_eq!(
        (&paused["state"], &paused["pauseReason"]),
        (&json!("ENVIRONMENT_STATE_PAUSED"), &json!("PAUSE_REASON_USER"))
    );
    assert_eq!(it.refused("Deploy", &id, json!({})).await, "INVALID_STATE");
    completed(&it.run("Sync", &id, json!({})).await);
    assert_eq!(it.state(&id).await, "PAUSED");
    completed(&it.run("Resume", &id, json!({})).await);
    assert!(it.page(&id, "/").await.starts_with("one\n"));
    completed(&it.run("Restart", &id, json!({})).await);
    completed(&it.run("Sync", &id, json!({})).await);
    assert_eq!(it.state(&id).await, "RUNNING");
    assert!(it.page(&id, "/").await.contains("kept: apples"));
    suite.finish().await;
}

/// PE-40, PE-41, PE-44, PE-45: a copy takes the data along and costs a name if it overwrites; PRODUCTION gets
/// the very commit of STAGING, and who may deploy to it is a setting.
#[tokio::test(flavor = "multi_thread")]
async fn environments_are_copied_and_promoted() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    let staging = it.environment("staging", "STAGING").await;
    assert_eq!(it.refused("Clone", &staging, json!({})).await, "INVALID_STATE");
    assert_eq!(it.refused("Promote", &staging, json!({})).await, "INVALID_STATE");
    completed(&it.run("Deploy", &staging, json!({})).await);
    it.page(&staging, "/keep/apples").await;

    let clone = it.of(&staging, json!({ "name": "copy" }));
    let made = it.owner().tell(&format!("{ENVIRONMENTS}/CloneEnvironment"), clone).await;
    let copy = text(&made["environment"]["id"]);
    completed(&it.ended(&text(&made["task"]["id"])).await);
    let page = it.page(&copy, "/").await;
    assert!(page.contains("kept: apples") && page.contains("name: copy"), "{page}");
    assert_eq!(it.state(&staging).await, "RUNNING", "the source is as it was");
    it.page(&copy, "/keep/pears").await;
    assert!(!it.page(&staging, "/").await.contains("pears"), "they share nothing");

    it.page(&staging, "/keep/plums").await;
    let over = |name: &str| json!({ "targetEnvironmentId": copy, "confirmName": name });
    assert_eq!(it.refused("Clone", &staging, over("x")).await, "CONFIRMATION_MISMATCH");
    let developer = json!({ "userId": it.world.developer.user_id });
    it.world.grant(developer, "DEVELOPER").await;
    let method = format!("{ENVIRONMENTS}/CloneEnvironment");
    let by_developer = it.world.developer.refused(&method, it.of(&staging, over("copy"))).await;
    assert_eq!(by_developer, "MISSING_PERMISSION");
    completed(&it.run("Clone", &staging, over("copy")).await);
    assert!(it.page(&copy, "/").await.contains("kept: apples plums"));

    let production = it.environment("production", "PRODUCTION").await;
    let tested = it.get(&staging).await["commit"].clone();
    it.repository.commit("newer, and not tested");
    let promoted = it.run("Promote", &staging, json!({})).await;
    completed(&promoted);
    assert_eq!((&promoted["commit"], &promoted["environmentId"]), (&tested, &json!(production)));
    assert!(it.page(&production, "/").await.starts_with("one\n"));

    let deploy = format!("{ENVIRONMENTS}/DeployEnvironment");
    let role = json!({ "productionDeployMinRole": "DEPLOY_ROLE_ADMIN",
        "updateMask": "productionDeployMinRole" });
    it.owner().tell(&format!("{PROJECTS}/UpdateProject"), it.world.there(role)).await;
    let developer = &it.world.developer;
    let refused = developer.refused(&deploy, it.of(&production, json!({}))).await;
    assert_eq!(refused, "MISSING_PERMISSION");
    developer.tell(&deploy, it.of(&staging, json!({}))).await;
    suite.finish().await;
}

/// PE-20, PE-37, PE-38, PE-39: there is one PRODUCTION; what is destroyed is gone, with its process and
/// files; its tasks stay readable.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_destroyed_leaves_nothing() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    let id = it.environment("live", "PRODUCTION").await;
    let create = format!("{ENVIRONMENTS}/CreateEnvironment");
    let second = json!({ "name": "second", "kind": "ENVIRONMENT_KIND_PRODUCTION" });
    let second = it.world.there(second);
    assert_eq!(it.owner().refused(&create, second.clone()).await, "PRODUCTION_EXISTS");
    completed(&it.run("Deploy", &id, json!({})).await);
    let (url, home) = (text(&it.get(&id).await["url"]), suite.folder().join("runner").join(&id));
    assert!(home.exists());
    let named = |name: &str| json!({ "confirmName": name });
    assert_eq!(it.refused("Destroy", &id, named("Live")).await, "CONFIRMATION_MISMATCH");
    assert_eq!(it.refused("Destroy", &id, named("live")).await, "PRODUCTION_PROTECTED");
    let sure = json!({ "confirmName": "live", "allowProduction": true });
    let task = it.run("Destroy", &id, sure).await;
    completed(&task);
    assert_eq!(visit(&url, "/").await, None);
    assert!(!home.exists());
    assert_eq!(it.refused("Deploy", &id, json!({})).await, "NOT_FOUND");
    let second = it.owner().tell(&create, second).await;
    let second = json!({ "environmentId": second["environment"]["id"], "confirmName": "second",
        "allowProduction": true });
    let gone = it
        .owner()
        .tell(&format!("{ENVIRONMENTS}/DestroyEnvironment"), it.world.there(second))
        .await;
    assert_eq!(gone["environment"]["state"], "ENVIRONMENT_STATE_DELETED", "it never was anywhere");
    let list = it
        .owner()
        .tell(&format!("{ENVIRONMENTS}/ListEnvironments"), it.world.there(json!({})))
        .await;
    assert!(list["environments"].as_array().is_none_or(Vec::is_empty), "{list}");
    assert_eq!(it.task(&text(&task["id"])).await["state"], "TASK_STATE_COMPLETED");
    let list = it.owner().tell(&format!("{TASKS}/ListTasks"), it.of(&id, json!({}))).await;
    assert_eq!(list["tasks"].as_array().unwrap().len(), 2);
    suite.finish().await;
}

/// PE-36: a program that ends is started again; one that ends again and again is an ERROR that says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_is_started_again() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    let id = it.environment("main", "DEVELOPMENT").await;
    completed(&it.run("Deploy", &id, json!({})).await);
    let url = text(&it.get(&id).await["url"]);
    assert!(visit(&url, "/end").await.is_some());
    eventually("a page again", async || visit(&url, "/").await).await;
    assert_eq!(it.state(&id).await, "RUNNING");

    // What it needs is gone: it cannot be started again.
    let home = suite.folder().join("runner").join(&id).join("releases");
    let release = std::fs::read_dir(home).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(release.join("page.txt")).unwrap();
    assert!(visit(&url, "/end").await.is_some());
    eventually("an ERROR", async || (it.state(&id).await == "ERROR").then_some(())).await;
    let error = text(&it.get(&id).await["lastError"]);
    assert!(error.contains("3 times in a row") && error.contains("no page"), "{error}");
    suite.finish().await;
}

/// P-05: variables reach the program; a secret one is told to nobody else, and lies sealed.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_variable_reaches_the_program_and_nobody_else() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    let id = it.environment("main", "DEVELOPMENT").await;
    let set = format!("{ENVIRONMENTS}/SetVariables");
    let canary = "canary-4d1f";
    let secret = json!({ "set": [{ "name": "SECRET", "value": canary, "secret": true }, { "name": "PLAIN",
        "value": "seen" }] });
    let told = it.owner().tell(&set, it.of(&id, secret)).await;
    assert_eq!(
        (&told["variables"][0]["value"], &told["variables"][1]["value"]),
        (&json!("seen"), &Value::Null)
    );
    let list =
        it.owner().tell(&format!("{ENVIRONMENTS}/ListVariables"), it.of(&id, json!({}))).await;
    assert_eq!(list, told);
    let port = json!({ "set": [{ "name": "PORT", "value": "1" }] });
    assert_eq!(it.owner().refused(&set, it.of(&id, port)).await, "INVALID_FIELD");
    completed(&it.run("Deploy", &id, json!({})).await);
    assert!(it.page(&id, "/").await.contains(&format!("secret: {canary}")));

    // A copy has it, too, and removing it takes it away with the next start.
    let copy = it
        .owner()
        .tell(&format!("{ENVIRONMENTS}/CloneEnvironment"), it.of(&id, json!({ "name": "copy" })))
        .await;
    completed(&it.ended(&text(&copy["task"]["id"])).await);
    assert!(it.page(&text(&copy["environment"]["id"]), "/").await.contains(canary));
    it.owner().tell(&set, it.of(&id, json!({ "remove": ["SECRET"] }))).await;
    completed(&it.run("Restart", &id, json!({})).await);
    assert!(!it.page(&id, "/").await.contains(canary));

    // Not in the database, not in an event, not in the log: only in what the runner keeps to start the copy.
    let everywhere = "select count(*) from (
        select envelope as it from project.outbox union all select sealed from project.environment_variable
        union all select convert_to(lines::text, 'utf8') from project.task_log) as all_of_it
        where position('\\x63616e6172792d34643166'::bytea in it) > 0";
    assert_eq!(suite.count(everywhere).await, 0);
    suite.finish().await;
}

/// The overview tells what `ps`, `du` and the database say at that moment.
#[tokio::test(flavor = "multi_thread")]
async fn the_overview_tells_the_truth() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    let overview = async || {
        let method = format!("{PROJECTS}/GetProjectOverview");
        it.owner().tell(&method, it.world.there(json!({}))).await["overview"].clone()
    };
    assert_eq!(overview().await["status"], "PROJECT_STATUS_EMPTY");
    let (one, two) =
        (it.environment("one", "PRODUCTION").await, it.environment("two", "STAGING").await);
    assert_eq!(overview().await["status"], "PROJECT_STATUS_STOPPED");
    completed(&it.run("Deploy", &one, json!({})).await);
    completed(&it.run("Deploy", &two, json!({})).await);
    completed(&it.run("Stop", &two, json!({})).await);
    let now = eventually("figures of both", async || {
        let now = overview().await;
        let usages = now["usages"].as_array().filter(|it| it.len() == 2)?;
        (usages.iter().any(|it| it["memoryBytes"].is_string())).then_some(now.clone())
    })
    .await;
    assert_eq!(now["status"], "PROJECT_STATUS_RUNNING");
    assert_eq!(
        (&now["environmentCount"], &now["runningEnvironmentCount"], &now["deploymentCount"]),
        (&json!(2), &json!(1), &json!("2"))
    );
    assert_eq!(now["allocated"], json!({ "cpuCores": 1.0, "memoryMb": 1024, "diskGb": 10 }));
    assert_eq!(now["recentDeployments"][0]["environmentId"], two);
    assert_eq!(now["recentDeployments"][0]["commitAuthor"], "Ann");

    let home = suite.folder().join("runner").join(&one);
    let state = std::fs::read(home.join("record.json")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    let leader = state["process"]["pid"].to_string();
    // Figures are seconds old; nothing changes any more, so they must come to agree.
    eventually("figures that agree", async || {
        let now = overview().await;
        let used =
            now["usages"].as_array().unwrap().iter().find(|it| it["environmentId"] == one)?;
        let memory: i64 = text(&used["memoryBytes"]).parse().unwrap_or_default();
        let (du, ps) = (du(&home), ps(&leader));
        (text(&used["diskBytes"]) == du && (memory / 1024 - ps).abs() <= ps / 10).then_some(())
    })
    .await;

    it.repository.commit("");
    it.run("Deploy", &two, json!({})).await;
    assert_eq!(overview().await["status"], "PROJECT_STATUS_DEGRADED");
    suite.finish().await;
}

/// What files take, as `du` says.
fn du(folder: &std::path::Path) -> String {
    let said = std::process::Command::new("du").args(["-s", "-B1"]).arg(folder).output().unwrap();
    String::from_utf8(said.stdout).unwrap().split('\t').next().unwrap().to_owned()
}

/// What the processes of a group have in memory, in KiB, from where `ps` has it.
fn ps(leader: &str) -> i64 {
    let status = std::fs::read_dir("/proc").unwrap().flatten();
    let status = status.filter_map(|it| std::fs::read_to_string(it.path().join("status")).ok());
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|it| it.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let ours = status.filter(|it| field(it, "NSpgid:") == leader);
    ours.map(|it| field(&it, "VmRSS:").parse::<i64>().unwrap_or_default()).sum()
}
