//! Text of programs, commits and git that runners report, and addresses of repositories: cleaned and
//! bounded where they enter, without credentials.

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::{
    hosting::{ENVIRONMENTS, PROJECTS, TASKS},
    tasks::{Hand, served},
    world::text,
};

async fn lines(hand: &Hand, task: &Value) -> Vec<String> {
    let get = hand.hosting.world.there(json!({ "taskId": task }));
    let task = hand.hosting.owner().tell(&format!("{TASKS}/GetTask"), get).await;
    let lines = task["task"]["logLines"].as_array().cloned().unwrap_or_default();
    lines.iter().map(text).collect()
}

/// A runner is under the control of whoever owns its server: whatever it reports, its task ends, the event
/// fits into the log, and no control character or credential gets further.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_runner_reports_is_cleaned_and_bounded() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
    hand.beat().await;
    // Everything else in the events is as long as it can be, too.
    let id = hand.environment(&"\u{1f980}".repeat(255)).await;
    let branch = json!({ "branch": "b".repeat(255), "updateMask": "branch" });
    it.owner().tell(&format!("{ENVIRONMENTS}/UpdateEnvironment"), it.of(&id, branch)).await;
    let modules: Vec<_> = (0..50).map(|it| format!("{it:064}")).collect();
    let modules = json!({ "modules": modules });
    let git = "fatal: unable to access 'https://ann:s3cret@git.example.com/a.git/': \u{1b}[31mno";
    for (error, end) in [
        ("\u{1f980}".repeat(7_999), "\u{1f980}"),
        (format!("first\n{}\nlast", "x".repeat(1_000_000)), "\nlast"),
        (git.to_owned(), "[31mno"),
    ] {
        it.queue("Deploy", &id, modules.clone()).await;
        let lease = hand.lease().await;
        let step = json!({ "currentStep": "s".repeat(5_000), "logLines": [git, "y".repeat(9_000)],
            "totalSteps": i32::MAX });
        hand.report(&lease, step).await.unwrap();
        hand.finish(&lease, json!({ "errorMessage": error })).await.unwrap();
        let now = it.get(&id).await;
        let (task, last) = (it.task(&text(&lease["taskId"])).await, text(&now["lastError"]));
        assert_eq!(text(&task["errorMessage"]), last);
        assert!(last.len() <= 2_000 && last.ends_with(end), "{last}");
        assert_eq!(error.len() > 2_000, last.contains("[cut]"), "{last}");
        assert!(!last.contains('\u{1b}') && !last.contains("s3cret"), "{last}");
        assert!(text(&task["currentStep"]).len() <= 200);
        let lines = lines(&hand, &lease["taskId"]).await;
        assert!(lines[0].contains("https://***@git.example.com/a.git/"), "{lines:?}");
        assert!(lines[1].len() <= 4_096 && lines[1].ends_with("[cut]"), "{}", lines[1].len());
    }
    it.queue("Deploy", &id, modules).await;
    let good = json!({ "commit": "0a1b2c3", "url": "javascript:alert(1)",
        "commitSubject": format!("a\u{202e}b\u{7}{}", "c".repeat(10_000)), "commitAuthor": "d\0e" });
    hand.finish(&hand.lease().await, good).await.unwrap();
    let now = it.get(&id).await;
    assert_eq!((text(&now["url"]), it.state(&id).await), (String::new(), "RUNNING".to_owned()));
    let tasks = it.owner().tell(&format!("{TASKS}/ListTasks"), it.of(&id, json!({}))).await;
    let subject = text(&tasks["tasks"][0]["commitSubject"]);
    assert!(subject.starts_with("abc") && subject.len() <= 200, "{subject}");
    assert_eq!(tasks["tasks"][0]["commitAuthor"], "de");

    let long = "\u{1f980}\u{0}".repeat(9_000);
    let beat = json!({ "version": long, "isolation": long, "limits": long, "databaseAddress": long,
        "environments": [{ "environmentId": id, "observed": "OBSERVED_FAILED", "detail": long }] });
    hand.say("Heartbeat", beat).await.unwrap();
    eventually("the correction", async || (it.state(&id).await == "ERROR").then_some(())).await;
    let last = text(&it.get(&id).await["lastError"]);
    assert!(last.len() <= 2_000 && last.contains("[cut]") && !last.contains('\0'), "{last}");
    suite.finish().await;
}

/// The log of a task ends at its limit, and its last line says so; the task goes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_task_has_a_limit() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    hand.beat().await;
    let id = hand.environment("main").await;
    hand.hosting.queue("Deploy", &id, json!({})).await;
    let lease = hand.lease().await;
    let many = vec!["z".repeat(4_000); 900];
    for _ in 0..4 {
        hand.report(&lease, json!({ "logLines": many })).await.unwrap();
    }
    let stored = "select sum(length(line))::bigint from project.task_log, unnest(lines) as line";
    assert!(suite.count(stored).await <= 8 << 20, "{}", suite.count(stored).await);
    let lines = lines(&hand, &lease["taskId"]).await;
    assert!(lines.last().unwrap().contains("longer than"), "{:?}", lines.last());
    let before = suite.count(stored).await;
    hand.report(&lease, json!({ "logLines": ["more"] })).await.unwrap();
    assert_eq!(suite.count(stored).await, before);
    hand.finish(&lease, served()).await.unwrap();
    suite.finish().await;
}

/// A repository's address holds no credential and nothing that git would run or read on the server; what is
/// wrong is said without the secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_address_holds_no_credential() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
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
        let draft = it.world.here(json!({ "name": "Shop", "repositoryUrl": url }));
        let refused = it.owner().ask(&create, draft).await.unwrap_err();
        assert_eq!(refused.reason, "INVALID_FIELD", "{url}");
        assert!(!refused.to_string().contains("s3cret"), "{refused}");
        let other = json!({ "repositoryUrl": url, "confirmName": "Hosted" });
        let refused = it.owner().refused(&change, it.world.there(other)).await;
        assert_eq!(refused, "INVALID_FIELD", "{url}");
        if url.contains('@') && url.starts_with("https") {
            let draft = it.world.here(json!({ "name": "Shop", "repositoryUrl": url }));
            let refused = it.owner().ask(&create, draft).await.unwrap_err().to_string();
            assert!(refused.contains("credential helper"), "it says where they go: {refused}");
        }
    }
    // One from before: it is not shown any more, and a runner still gets it.
    let old = "update project.project set repository_url = 'https://ann:s3cret@git.example.com/a'
               where id = $1::uuid";
    sqlx::query(old).bind(&it.world.project).execute(&suite.pool).await.unwrap();
    let got = it.owner().tell(&format!("{PROJECTS}/GetProject"), it.world.there(json!({}))).await;
    assert_eq!(got["project"]["repositoryUrl"], "https://***@git.example.com/a");
    hand.beat().await;
    let id = hand.environment("main").await;
    it.queue("Deploy", &id, json!({})).await;
    let lease = hand.lease().await;
    assert_eq!(lease["repositoryUrl"], "https://ann:s3cret@git.example.com/a");
    hand.finish(&lease, served()).await.unwrap();
    suite.finish().await;
}
