//! Input from runners and repositories: text of programs, commits and git is cleaned, truncated and freed of
//! credentials.

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::support::{
    fake_runner::{FakeRunner, success_result},
    hosting::{ENVIRONMENTS, PROJECTS, TASKS},
    world::text,
};

/// Log lines of a task.
async fn log_lines(runner: &FakeRunner, task: &Value) -> Vec<String> {
    let get = runner.hosting.world.project_request(json!({ "taskId": task }));
    let task = runner.hosting.owner().call_ok(&format!("{TASKS}/GetTask"), get).await;
    let lines = task["task"]["logLines"].as_array().cloned().unwrap_or_default();
    lines.iter().map(text).collect()
}

/// The owner of a server controls its runner: for any report the task ends, the event fits into the log, and
/// no control character or credential is stored.
#[tokio::test(flavor = "multi_thread")]
async fn reports_of_runners_are_cleaned_and_truncated() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    // The other texts of the events have their maximum length too.
    let id = runner.environment(&"\u{1f980}".repeat(255)).await;
    let branch = json!({ "branch": "b".repeat(255), "updateMask": "branch" });
    hosting
        .owner()
        .call_ok(&format!("{ENVIRONMENTS}/UpdateEnvironment"), hosting.request(&id, branch))
        .await;
    let modules: Vec<_> = (0..50).map(|it| format!("{it:064}")).collect();
    let modules = json!({ "modules": modules });
    let git = "fatal: unable to access 'https://ann:s3cret@git.example.com/a.git/': \u{1b}[31mno";
    for (error, end) in [
        ("\u{1f980}".repeat(7_999), "\u{1f980}"),
        (format!("first\n{}\nlast", "x".repeat(1_000_000)), "\nlast"),
        (git.to_owned(), "': no"),
    ] {
        hosting.start_task("Deploy", &id, modules.clone()).await;
        let lease = runner.lease_task().await;
        let step = json!({ "currentStep": "s".repeat(5_000), "logLines": [git, "y".repeat(9_000)],
            "totalSteps": i32::MAX });
        runner.report_progress(&lease, step).await.unwrap();
        runner.finish_task(&lease, json!({ "errorMessage": error })).await.unwrap();
        let now = hosting.get(&id).await;
        let task = hosting.task(&text(&lease["taskId"])).await;
        let last_error = text(&now["lastError"]);
        assert_eq!(text(&task["errorMessage"]), last_error);
        assert!(last_error.len() <= 2_000 && last_error.ends_with(end), "{last_error}");
        assert_eq!(error.len() > 2_000, last_error.contains("[cut]"), "{last_error}");
        assert!(!last_error.contains('\u{1b}') && !last_error.contains("s3cret"), "{last_error}");
        assert!(text(&task["currentStep"]).len() <= 200);
        let lines = log_lines(&runner, &lease["taskId"]).await;
        assert!(lines[0].contains("https://***@git.example.com/a.git/"), "{lines:?}");
        assert!(lines[1].len() <= 4_096 && lines[1].ends_with("[cut]"), "{}", lines[1].len());
    }
    hosting.start_task("Deploy", &id, modules).await;
    let result = json!({ "commit": "0a1b2c3", "url": "javascript:alert(1)",
        "commitSubject": format!("a\u{202e}b\u{7}{}", "c".repeat(10_000)), "commitAuthor": "d\0e" });
    runner.finish_task(&runner.lease_task().await, result).await.unwrap();
    let now = hosting.get(&id).await;
    assert_eq!(
        (text(&now["url"]), hosting.state(&id).await),
        (String::new(), "RUNNING".to_owned())
    );
    let tasks = hosting
        .owner()
        .call_ok(&format!("{TASKS}/ListTasks"), hosting.request(&id, json!({})))
        .await;
    let subject = text(&tasks["tasks"][0]["commitSubject"]);
    assert!(subject.starts_with("abc") && subject.len() <= 200, "{subject}");
    assert_eq!(tasks["tasks"][0]["commitAuthor"], "de");

    let long = "\u{1f980}\u{0}".repeat(9_000);
    let heartbeat = json!({ "version": long, "isolation": long, "limits": long, "databaseAddress": long,
        "environments": [{ "environmentId": id, "observed": "OBSERVED_FAILED", "detail": long }] });
    runner.call("Heartbeat", heartbeat).await.unwrap();
    eventually("the corrected state", async || (hosting.state(&id).await == "ERROR").then_some(()))
        .await;
    let last = text(&hosting.get(&id).await["lastError"]);
    assert!(last.len() <= 2_000 && last.contains("[cut]") && !last.contains('\0'), "{last}");
    suite.finish().await;
}

/// The log of a task is cut at its limit with a last line about it; the task continues.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_task_has_a_limit() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    runner.heartbeat().await;
    let id = runner.environment("main").await;
    runner.hosting.start_task("Deploy", &id, json!({})).await;
    let lease = runner.lease_task().await;
    let many = vec!["z".repeat(4_000); 900];
    for _ in 0..4 {
        runner.report_progress(&lease, json!({ "logLines": many })).await.unwrap();
    }
    let stored = "select sum(length(line))::bigint from project.task_log, unnest(lines) as line";
    assert!(suite.count(stored).await <= 8 << 20, "{}", suite.count(stored).await);
    let lines = log_lines(&runner, &lease["taskId"]).await;
    assert!(lines.last().unwrap().contains("longer than"), "{:?}", lines.last());
    let before = suite.count(stored).await;
    runner.report_progress(&lease, json!({ "logLines": ["more"] })).await.unwrap();
    assert_eq!(suite.count(stored).await, before);
    runner.finish_task(&lease, success_result()).await.unwrap();
    suite.finish().await;
}

/// Addresses of repositories with credentials, or that git would run or read on the server, are rejected
/// without the secret in the message.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_address_holds_no_credential() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    let create = format!("{PROJECTS}/CreateProject");
    let change = format!("{PROJECTS}/ChangeRepository");
    for url in [
        "https://ann:s3cret@git.example.com/a",
        "https://s3cret@git.example.com/a",
        "ssh://git:s3cret@git.example.com/a",
        "https://git.example.com/a?token=s3cret",
        "https://git.example.com/a#s3cret",
        "ext::sh -c s3cret",
        "file:///etc/s3cret",
        "ssh://-oProxyCommand=s3cret/a",
        "git@-oProxyCommand=s3cret:a",
        "-us3cret",
        "https://git.example.com/a\\s3cret",
        "https://git.example.com/a\u{202e}s3cret",
        "http://git.example.com/s3cret",
    ] {
        let create_project =
            hosting.world.org_request(json!({ "name": "Shop", "repositoryUrl": url }));
        let refusal = hosting.owner().call(&create, create_project).await.unwrap_err();
        assert_eq!(refusal.reason, "INVALID_FIELD", "{url}");
        assert!(!refusal.to_string().contains("s3cret"), "{refusal}");
        let other = json!({ "repositoryUrl": url, "confirmName": "Hosted" });
        let reason = hosting.owner().call_err(&change, hosting.world.project_request(other)).await;
        assert_eq!(reason, "INVALID_FIELD", "{url}");
        if url.contains('@') && url.starts_with("https") {
            let create_project =
                hosting.world.org_request(json!({ "name": "Shop", "repositoryUrl": url }));
            let refused =
                hosting.owner().call(&create, create_project).await.unwrap_err().to_string();
            assert!(refused.contains("credential helper"), "{refused}");
        }
    }
    // A stored address with a credential is masked for people and complete for runners.
    let store = "update project.project set repository_url = 'https://ann:s3cret@git.example.com/a'
               where id = $1::uuid";
    sqlx::query(store).bind(&hosting.world.project).execute(&suite.pool).await.unwrap();
    let shown = hosting
        .owner()
        .call_ok(&format!("{PROJECTS}/GetProject"), hosting.world.project_request(json!({})))
        .await;
    assert_eq!(shown["project"]["repositoryUrl"], "https://***@git.example.com/a");
    runner.heartbeat().await;
    let id = runner.environment("main").await;
    hosting.start_task("Deploy", &id, json!({})).await;
    let lease = runner.lease_task().await;
    assert_eq!(lease["repositoryUrl"], "https://ann:s3cret@git.example.com/a");
    runner.finish_task(&lease, success_result()).await.unwrap();
    suite.finish().await;
}
