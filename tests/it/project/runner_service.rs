//! Input from runners and repositories: text of programs, commits and git is cleaned, truncated and freed of
//! credentials.

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::support::{
    audit_client::AuditClient,
    fake_runner::{FakeRunner, success_result},
    hosting::{ENVIRONMENTS, PROJECTS, TASKS},
    tables::tables_with,
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

/// Addresses of repositories that git would run or read on the server are rejected; those with a credential
/// with the way to store it. No message has the secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_address_holds_no_credential() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    let create = format!("{PROJECTS}/CreateProject");
    let change = format!("{PROJECTS}/ChangeRepository");
    for (url, reason) in [
        ("https://ann:s3cret@git.example.com/a", "REPOSITORY_URL_HAS_CREDENTIAL"),
        ("https://s3cret@git.example.com/a", "REPOSITORY_URL_HAS_CREDENTIAL"),
        ("http://ann:s3cret@git.example.com/a", "REPOSITORY_URL_HAS_CREDENTIAL"),
        ("ssh://git:s3cret@git.example.com/a", "REPOSITORY_URL_HAS_CREDENTIAL"),
        ("https://git.example.com/a?token=s3cret", "REPOSITORY_URL_HAS_CREDENTIAL"),
        ("https://git.example.com/a#s3cret", "REPOSITORY_URL_HAS_CREDENTIAL"),
        ("ext::sh -c s3cret", "INVALID_FIELD"),
        ("file:///etc/s3cret", "INVALID_FIELD"),
        ("ssh://-oProxyCommand=s3cret/a", "INVALID_FIELD"),
        ("git@-oProxyCommand=s3cret:a", "INVALID_FIELD"),
        ("ann:s3cret@git.example.com:a", "INVALID_FIELD"),
        ("-us3cret", "INVALID_FIELD"),
        ("https://git.example.com/a\\s3cret", "INVALID_FIELD"),
        ("https://git.example.com/a\u{202e}s3cret", "INVALID_FIELD"),
        ("http://git.example.com/s3cret", "INVALID_FIELD"),
    ] {
        let name = json!({ "name": "Shop", "repositoryUrl": url });
        let name = hosting.world.org_request(name);
        let other = json!({ "repositoryUrl": url, "confirmName": "Hosted" });
        let other = hosting.world.project_request(other);
        for (method, request) in [(&create, name), (&change, other)] {
            let refusal = hosting.owner().call(method, request).await.unwrap_err();
            assert_eq!(refusal.reason, reason, "{url}");
            let message = refusal.to_string();
            assert!(!message.contains("s3cret"), "{message}");
            let names_remedy = message.contains("store them in a Git connection");
            assert_eq!(names_remedy, reason != "INVALID_FIELD", "{message}");
        }
    }
    suite.finish().await;
}

/// Credentials in addresses that an older version has stored are moved into sealed tokens, with an event
/// that does not have them; the runner gets address and credential apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_stored_address_loses_its_credential() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let id = runner.environment("main").await;
    let log = AuditClient::new(&suite, hosting.owner(), &hosting.world.org).await;
    for (moves, (stored, url, username, password)) in [
        ("https://ann:s3%40cret@git.example.com/a", "https://git.example.com/a", "ann", "s3@cret"),
        ("https://s3cret@git.example.com/a", "https://git.example.com/a", "s3cret", ""),
        (
            "https://git.example.com/a?t=s3cret",
            "https://git.example.com/a",
            "x-access-token",
            "s3cret",
        ),
        ("ssh://git:s3cret@git.example.com/a", "ssh://git@git.example.com/a", "", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let store = "update project.project set repository_url = $2, repository_token = null
                     where id = $1::uuid";
        let store = sqlx::query(store).bind(&hosting.world.project).bind(stored);
        store.execute(&suite.pool).await.unwrap();
        let get = hosting.world.project_request(json!({}));
        let project = eventually("the move of the credential", async || {
            let got = hosting.owner().call_ok(&format!("{PROJECTS}/GetProject"), get.clone()).await;
            assert!(!got.to_string().contains("s3cret"), "{got}");
            let project = got["project"].clone();
            (project["repositoryUrl"] == url).then_some(project)
        })
        .await;
        let has_token = !username.is_empty();
        assert_eq!(project["hasRepositoryToken"] == true, has_token, "{stored}");
        assert_eq!(tables_with(&suite, b"s3cret").await, Vec::<String>::new(), "{stored}");
        hosting.start_task("Deploy", &id, json!({})).await;
        let lease = runner.lease_task().await;
        assert_eq!(lease["repositoryUrl"], url);
        let credential = &lease["repositoryCredential"];
        assert_eq!(credential.is_object(), has_token, "{lease}");
        assert_eq!(
            (&*text(&credential["username"]), &*text(&credential["password"])),
            (username, password),
            "{stored}"
        );
        runner.finish_task(&lease, success_result()).await.unwrap();
        suite.wait_for_log().await;
        let moved = log.entries(json!({ "action": "project.repository_changed" })).await;
        assert_eq!(moved.len(), moves + 1, "{moved:?}");
        assert!(!json!(moved).to_string().contains("s3cret"), "{moved:?}");
    }
    suite.finish().await;
}
