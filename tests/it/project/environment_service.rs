//! Environments on a real runner: deployment, rollback, stop, pause, copy, promotion and destruction.

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::support::{
    hosting::{ENVIRONMENTS, Hosting, PROJECTS, TASKS, visit},
    world::text,
};

/// Checks that a task has completed.
fn assert_completed(task: &Value) {
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    assert_eq!(task["progressPercent"], 100, "{task}");
}

/// PE-27, PE-33: a version serves until the next one is healthy; a failed deployment changes nothing and
/// reports the end of its log; a rollback restores the earlier version.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_deployment_changes_nothing_and_a_rollback_restores() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    assert_eq!(hosting.state(&id).await, "PENDING");
    assert_eq!(hosting.call_err("Rollback", &id, json!({})).await, "INVALID_STATE");
    let first = hosting.run_task("Deploy", &id, json!({ "modules": ["sale", "stock"] })).await;
    assert_completed(&first);
    assert!(first["logLines"].to_string().contains("building"), "{first}");
    assert_eq!((&first["stepsCompleted"], &first["totalSteps"]), (&json!(5), &json!(5)));
    let page = hosting.page(&id, "/").await;
    assert!(page.starts_with("one\n") && page.contains("modules: sale,stock"), "{page}");
    assert!(!page.contains("uid: 0\n"), "deployed programs do not run as root: {page}");
    assert_eq!(hosting.call_err("Rollback", &id, json!({})).await, "NO_EARLIER_DEPLOYMENT");

    hosting.repository.commit("");
    let broken = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(broken["state"], "TASK_STATE_FAILED");
    assert!(text(&broken["errorMessage"]).ends_with("there is no page"), "{broken}");
    let now = hosting.get(&id).await;
    assert_eq!(now["state"], "ENVIRONMENT_STATE_ERROR");
    assert_eq!(now["lastError"], broken["errorMessage"]);
    assert_eq!(
        (&now["observed"], &now["lastTaskState"]),
        (&json!("OBSERVED_RUNNING"), &json!("TASK_STATE_FAILED"))
    );
    assert!(hosting.page(&id, "/").await.starts_with("one\n"), "the earlier version still serves");

    let two = hosting.repository.commit("two");
    let second = hosting.run_task("Deploy", &id, json!({})).await;
    assert_completed(&second);
    assert_eq!(
        (text(&second["commit"]), text(&hosting.get(&id).await["commit"])),
        (two.clone(), two)
    );
    assert!(hosting.page(&id, "/").await.starts_with("two\n"));
    assert_completed(&hosting.run_task("Rollback", &id, json!({})).await);
    assert!(hosting.page(&id, "/").await.starts_with("one\n"));
    assert_eq!(hosting.get(&id).await["deploymentId"], first["id"]);
    assert_eq!(hosting.task(&text(&second["id"])).await["rolledBack"], true);
    assert_eq!(hosting.call_err("Rollback", &id, json!({})).await, "NO_EARLIER_DEPLOYMENT");

    // A missing branch: the deployment fails, the running version still serves.
    let update = json!({ "branch": "gone", "updateMask": "branch" });
    let method = format!("{ENVIRONMENTS}/UpdateEnvironment");
    hosting.owner().call_ok(&method, hosting.request(&id, update)).await;
    let missing = hosting.run_task("Deploy", &id, json!({})).await;
    assert!(text(&missing["errorMessage"]).contains("git could not fetch the branch"), "{missing}");
    assert!(hosting.page(&id, "/").await.starts_with("one\n"));
    suite.finish().await;
}

/// PE-29, PE-30, PE-42: stop, start, pause, resume, restart and sync act on the process and on the state;
/// data stays.
#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_stopped_started_paused_and_synced() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    assert_completed(&hosting.run_task("Deploy", &id, json!({})).await);
    let url = text(&hosting.get(&id).await["url"]);
    hosting.page(&id, "/keep/apples").await;

    assert_completed(&hosting.run_task("Stop", &id, json!({})).await);
    assert_eq!(hosting.state(&id).await, "STOPPED");
    assert_eq!(visit(&url, "/").await, None);
    assert_eq!(hosting.call_err("Stop", &id, json!({})).await, "INVALID_STATE");
    assert_completed(&hosting.run_task("Start", &id, json!({})).await);
    assert!(hosting.page(&id, "/").await.contains("kept: apples"), "its data is kept");
    assert_eq!(hosting.call_err("Start", &id, json!({})).await, "INVALID_STATE");

    assert_completed(&hosting.run_task("Pause", &id, json!({})).await);
    let paused = hosting.get(&id).await;
    assert_eq!(
        (&paused["state"], &paused["pauseReason"]),
        (&json!("ENVIRONMENT_STATE_PAUSED"), &json!("PAUSE_REASON_USER"))
    );
    assert_eq!(hosting.call_err("Deploy", &id, json!({})).await, "INVALID_STATE");
    assert_completed(&hosting.run_task("Sync", &id, json!({})).await);
    assert_eq!(hosting.state(&id).await, "PAUSED");
    assert_completed(&hosting.run_task("Resume", &id, json!({})).await);
    assert!(hosting.page(&id, "/").await.starts_with("one\n"));
    assert_completed(&hosting.run_task("Restart", &id, json!({})).await);
    assert_completed(&hosting.run_task("Sync", &id, json!({})).await);
    assert_eq!(hosting.state(&id).await, "RUNNING");
    assert!(hosting.page(&id, "/").await.contains("kept: apples"));
    suite.finish().await;
}

/// PE-40, PE-41, PE-44, PE-45: a copy includes the data and needs a typed name to overwrite an environment; a
/// promotion deploys the commit of STAGING to PRODUCTION; a setting limits who deploys there.
#[tokio::test(flavor = "multi_thread")]
async fn environments_are_copied_and_promoted() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let staging = hosting.environment("staging", "STAGING").await;
    assert_eq!(hosting.call_err("Clone", &staging, json!({})).await, "INVALID_STATE");
    assert_eq!(hosting.call_err("Promote", &staging, json!({})).await, "INVALID_STATE");
    assert_completed(&hosting.run_task("Deploy", &staging, json!({})).await);
    hosting.page(&staging, "/keep/apples").await;

    let clone = hosting.request(&staging, json!({ "name": "copy" }));
    let made = hosting.owner().call_ok(&format!("{ENVIRONMENTS}/CloneEnvironment"), clone).await;
    let copy = text(&made["environment"]["id"]);
    assert_completed(&hosting.finished_task(&text(&made["task"]["id"])).await);
    let page = hosting.page(&copy, "/").await;
    assert!(page.contains("kept: apples") && page.contains("name: copy"), "{page}");
    assert_eq!(hosting.state(&staging).await, "RUNNING", "the source runs again");
    hosting.page(&copy, "/keep/pears").await;
    assert!(!hosting.page(&staging, "/").await.contains("pears"), "copies share no data");

    hosting.page(&staging, "/keep/plums").await;
    let overwrite = |name: &str| json!({ "targetEnvironmentId": copy, "confirmName": name });
    assert_eq!(hosting.call_err("Clone", &staging, overwrite("x")).await, "CONFIRMATION_MISMATCH");
    let developer = json!({ "userId": hosting.world.developer.user_id });
    hosting.world.grant(developer, "DEVELOPER").await;
    let method = format!("{ENVIRONMENTS}/CloneEnvironment");
    let by_developer = hosting
        .world
        .developer
        .call_err(&method, hosting.request(&staging, overwrite("copy")))
        .await;
    assert_eq!(by_developer, "MISSING_PERMISSION");
    assert_completed(&hosting.run_task("Clone", &staging, overwrite("copy")).await);
    assert!(hosting.page(&copy, "/").await.contains("kept: apples plums"));

    let production = hosting.environment("production", "PRODUCTION").await;
    let tested = hosting.get(&staging).await["commit"].clone();
    hosting.repository.commit("newer, untested");
    let promoted = hosting.run_task("Promote", &staging, json!({})).await;
    assert_completed(&promoted);
    assert_eq!((&promoted["commit"], &promoted["environmentId"]), (&tested, &json!(production)));
    assert!(hosting.page(&production, "/").await.starts_with("one\n"));

    let deploy = format!("{ENVIRONMENTS}/DeployEnvironment");
    let role = json!({ "productionDeployMinRole": "DEPLOY_ROLE_ADMIN",
        "updateMask": "productionDeployMinRole" });
    hosting
        .owner()
        .call_ok(&format!("{PROJECTS}/UpdateProject"), hosting.world.project_request(role))
        .await;
    let developer = &hosting.world.developer;
    let refused = developer.call_err(&deploy, hosting.request(&production, json!({}))).await;
    assert_eq!(refused, "MISSING_PERMISSION");
    developer.call_ok(&deploy, hosting.request(&staging, json!({}))).await;
    suite.finish().await;
}

/// PE-20, PE-37, PE-38, PE-39: a project has one PRODUCTION; a destroyed environment leaves no process and no
/// files; its tasks stay readable.
#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_environment_leaves_no_process_or_files() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("live", "PRODUCTION").await;
    let create = format!("{ENVIRONMENTS}/CreateEnvironment");
    let second = json!({ "name": "second", "kind": "ENVIRONMENT_KIND_PRODUCTION" });
    let second = hosting.world.project_request(second);
    assert_eq!(hosting.owner().call_err(&create, second.clone()).await, "PRODUCTION_EXISTS");
    assert_completed(&hosting.run_task("Deploy", &id, json!({})).await);
    let url = text(&hosting.get(&id).await["url"]);
    let folder = suite.data_dir().join("runner").join(&id);
    assert!(folder.exists());
    let confirm = |name: &str| json!({ "confirmName": name });
    assert_eq!(hosting.call_err("Destroy", &id, confirm("Live")).await, "CONFIRMATION_MISMATCH");
    assert_eq!(hosting.call_err("Destroy", &id, confirm("live")).await, "PRODUCTION_PROTECTED");
    let confirmed = json!({ "confirmName": "live", "allowProduction": true });
    let task = hosting.run_task("Destroy", &id, confirmed).await;
    assert_completed(&task);
    assert_eq!(visit(&url, "/").await, None);
    assert!(!folder.exists());
    assert_eq!(hosting.call_err("Deploy", &id, json!({})).await, "NOT_FOUND");
    let second = hosting.owner().call_ok(&create, second).await;
    let second = json!({ "environmentId": second["environment"]["id"], "confirmName": "second",
        "allowProduction": true });
    let deleted = hosting
        .owner()
        .call_ok(
            &format!("{ENVIRONMENTS}/DestroyEnvironment"),
            hosting.world.project_request(second),
        )
        .await;
    assert_eq!(deleted["environment"]["state"], "ENVIRONMENT_STATE_DELETED", "never deployed");
    let list = hosting
        .owner()
        .call_ok(
            &format!("{ENVIRONMENTS}/ListEnvironments"),
            hosting.world.project_request(json!({})),
        )
        .await;
    assert!(list["environments"].as_array().is_none_or(Vec::is_empty), "{list}");
    assert_eq!(hosting.task(&text(&task["id"])).await["state"], "TASK_STATE_COMPLETED");
    let list = hosting
        .owner()
        .call_ok(&format!("{TASKS}/ListTasks"), hosting.request(&id, json!({})))
        .await;
    assert_eq!(list["tasks"].as_array().unwrap().len(), 2);
    suite.finish().await;
}

/// PE-36: a program that exits is restarted; repeated exits set the state ERROR with a message.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_exits_is_restarted() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    assert_completed(&hosting.run_task("Deploy", &id, json!({})).await);
    let url = text(&hosting.get(&id).await["url"]);
    assert!(visit(&url, "/end").await.is_some());
    eventually("the restarted page", async || visit(&url, "/").await).await;
    assert_eq!(hosting.state(&id).await, "RUNNING");
    let method = format!("{ENVIRONMENTS}/GetEnvironmentHealth");
    eventually("the exit code", async || {
        let health = hosting.owner().call_ok(&method, hosting.request(&id, json!({}))).await;
        let health = &health["health"];
        (health["lastExitCode"] == 7 && health["restartCount"] == 1).then_some(())
    })
    .await;

    // Without its page the program cannot start.
    let releases = suite.data_dir().join("runner").join(&id).join("releases");
    let paths = std::fs::read_dir(releases).unwrap().map(|it| it.unwrap().path());
    let release = paths.into_iter().find(|it| it.is_dir()).unwrap();
    std::fs::remove_file(release.join("page.txt")).unwrap();
    assert!(visit(&url, "/end").await.is_some());
    eventually("an ERROR", async || (hosting.state(&id).await == "ERROR").then_some(())).await;
    let error = text(&hosting.get(&id).await["lastError"]);
    assert!(error.contains("restarted 5 times") && error.contains("no page"), "{error}");
    assert_eq!(hosting.get(&id).await["observed"], "OBSERVED_FAILED");
    suite.finish().await;
}

/// P-05: variables reach the program; secret values are never returned and are stored encrypted.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_variable_reaches_the_program_only() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let set = format!("{ENVIRONMENTS}/SetVariables");
    let canary = "canary-4d1f";
    let secret = json!({ "set": [{ "name": "SECRET", "value": canary, "secret": true }, { "name": "PLAIN",
        "value": "seen" }] });
    let variables = hosting.owner().call_ok(&set, hosting.request(&id, secret)).await;
    assert_eq!(
        (&variables["variables"][0]["value"], &variables["variables"][1]["value"]),
        (&json!("seen"), &Value::Null)
    );
    let list = hosting
        .owner()
        .call_ok(&format!("{ENVIRONMENTS}/ListVariables"), hosting.request(&id, json!({})))
        .await;
    assert_eq!(list, variables);
    let port = json!({ "set": [{ "name": "PORT", "value": "1" }] });
    assert_eq!(hosting.owner().call_err(&set, hosting.request(&id, port)).await, "INVALID_FIELD");
    assert_completed(&hosting.run_task("Deploy", &id, json!({})).await);
    assert!(hosting.page(&id, "/").await.contains(&format!("secret: {canary}")));

    // A copy has the variable too; its removal takes effect at the next start.
    let copy = hosting
        .owner()
        .call_ok(
            &format!("{ENVIRONMENTS}/CloneEnvironment"),
            hosting.request(&id, json!({ "name": "copy" })),
        )
        .await;
    assert_completed(&hosting.finished_task(&text(&copy["task"]["id"])).await);
    assert!(hosting.page(&text(&copy["environment"]["id"]), "/").await.contains(canary));
    hosting.owner().call_ok(&set, hosting.request(&id, json!({ "remove": ["SECRET"] }))).await;
    assert_completed(&hosting.run_task("Restart", &id, json!({})).await);
    assert!(!hosting.page(&id, "/").await.contains(canary));

    // The plain value is in no event, no table and no log.
    let plain_values = "select count(*) from (
        select envelope as it from project.outbox union all select sealed from project.environment_variable
        union all select convert_to(lines::text, 'utf8') from project.task_log) as all_of_it
        where position('\\x63616e6172792d34643166'::bytea in it) > 0";
    assert_eq!(suite.count(plain_values).await, 0);
    suite.finish().await;
}

/// The overview of a project agrees with the kernel's figures, `du` and the database.
#[tokio::test(flavor = "multi_thread")]
async fn the_overview_agrees_with_measurements() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let overview = async || {
        let method = format!("{PROJECTS}/GetProjectOverview");
        hosting.owner().call_ok(&method, hosting.world.project_request(json!({}))).await["overview"]
            .clone()
    };
    assert_eq!(overview().await["status"], "PROJECT_STATUS_EMPTY");
    let one = hosting.environment("one", "PRODUCTION").await;
    let two = hosting.environment("two", "STAGING").await;
    assert_eq!(overview().await["status"], "PROJECT_STATUS_STOPPED");
    assert_completed(&hosting.run_task("Deploy", &one, json!({})).await);
    assert_completed(&hosting.run_task("Deploy", &two, json!({})).await);
    assert_completed(&hosting.run_task("Stop", &two, json!({})).await);
    let now = eventually("the usage of both", async || {
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

    let folder = suite.data_dir().join("runner").join(&one);
    let record = std::fs::read(folder.join("record.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let leader = record["process"]["pid"].to_string();
    // Measurements are seconds old; the program is idle, so that both must converge.
    eventually("equal measurements", async || {
        let now = overview().await;
        let used =
            now["usages"].as_array().unwrap().iter().find(|it| it["environmentId"] == one)?;
        let memory: i64 = text(&used["memoryBytes"]).parse().unwrap_or_default();
        let disk = disk_usage(&folder);
        let expected = group_memory(&leader).unwrap_or_else(|| resident_memory(&leader));
        let memory_agrees = (memory / 1024 - expected).abs() <= expected / 10;
        (text(&used["diskBytes"]) == disk && memory_agrees).then_some(())
    })
    .await;

    hosting.repository.commit("");
    hosting.run_task("Deploy", &two, json!({})).await;
    assert_eq!(overview().await["status"], "PROJECT_STATUS_DEGRADED");
    suite.finish().await;
}

/// Bytes of a folder on disk, measured by `du`.
fn disk_usage(folder: &std::path::Path) -> String {
    let output = std::process::Command::new("du").args(["-s", "-B1"]).arg(folder).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split('\t').next().unwrap().to_owned()
}

/// Memory of the control group of a process in KiB, without inactive files; `None` if it has none of its own.
fn group_memory(pid: &str) -> Option<i64> {
    let path_of = |process: &str| {
        let groups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
        let version_1 = groups.lines().find_map(|it| it.split_once(":memory:")).map(|it| it.1);
        let version_2 = groups.lines().find_map(|it| it.strip_prefix("0::"));
        let (root, path) = match version_1 {
            Some(path) => ("/sys/fs/cgroup/memory", path),
            None => ("/sys/fs/cgroup", version_2?),
        };
        Some(format!("{root}{path}"))
    };
    let path = path_of(pid).filter(|it| Some(it) != path_of("self").as_ref())?;
    let read = |file: &str| std::fs::read_to_string(format!("{path}/{file}")).ok();
    let used = read("memory.usage_in_bytes").or_else(|| read("memory.current"))?;
    let statistics = read("memory.stat")?;
    let inactive = |name| statistics.lines().find_map(|it| it.strip_prefix(name)?.parse().ok());
    let inactive: i64 = inactive("total_inactive_file ").or_else(|| inactive("inactive_file "))?;
    Some((used.trim().parse::<i64>().ok()? - inactive) / 1024)
}

/// Resident memory of a process group in KiB, from `/proc`.
fn resident_memory(leader: &str) -> i64 {
    let status = std::fs::read_dir("/proc").unwrap().flatten();
    let status = status.filter_map(|it| std::fs::read_to_string(it.path().join("status")).ok());
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|it| it.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let group = status.filter(|it| field(it, "NSpgid:") == leader);
    group.map(|it| field(&it, "VmRSS:").parse::<i64>().unwrap_or_default()).sum()
}
