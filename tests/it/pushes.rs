//! Pushes of git servers: signed, they deploy what follows the branch; the last one wins.

use std::net::SocketAddr;

use serde_json::{Value, json};
use testkit::{Suite, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    hosting::{Hosting, PROJECTS, TASKS},
    tasks::Hand,
    world::text,
};

/// Posts as a git server does; answers the status and the text.
pub(crate) async fn post(
    at: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{more}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.trim().to_owned())
}

pub(crate) fn signature(secret: &str, body: &str) -> String {
    let mac = chassis::key::hmac_sha256(secret.as_bytes(), body.as_bytes());
    mac.iter().map(|it| format!("{it:02x}")).collect()
}

pub(crate) fn pushed(branch: &str, commit: &str) -> String {
    json!({ "ref": format!("refs/heads/{branch}"), "after": commit, "user_username": "ann" })
        .to_string()
}

/// A project's push webhook: its path and its secret.
pub(crate) async fn hook(it: &Hosting) -> (String, String) {
    let method = format!("{PROJECTS}/RotatePushSecret");
    let made = it.owner().tell(&method, it.world.there(json!({}))).await;
    let path = text(&made["url"]);
    let path = path[path.find("/hooks/").unwrap()..].to_owned();
    (path, text(&made["secret"]))
}

/// A signed push, in the words of Gitea; answers the status and the text.
pub(crate) async fn push(suite: &Suite, hook: &(String, String), branch: &str) -> (u16, String) {
    let (path, secret) = hook;
    let body = pushed(branch, &"a".repeat(40));
    let signed = signature(secret, &body);
    let headers = [("x-gitea-event", "push"), ("x-gitea-signature", signed.as_str())];
    post(suite.address, path, &headers, &body).await
}

/// PE-46: from `git push` to a page, in the words of GitHub, GitLab and Gitea.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_becomes_a_page() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    let follows = it.environment_with(json!({ "name": "main", "autoDeploy": true })).await;
    let stays = it.environment_with(json!({ "name": "other" })).await;
    let (path, secret) = hook(&it).await;
    for (number, format) in ["github", "gitea", "gitlab"].into_iter().enumerate() {
        let commit = it.repository.commit(format);
        let body = pushed("main", &commit);
        let signed = signature(&secret, &body);
        let headers: Vec<(&str, String)> = match format {
            "github" => vec![
                ("x-github-event", "push".to_owned()),
                ("x-hub-signature-256", format!("sha256={signed}")),
            ],
            "gitea" => vec![("x-gitea-event", "push".to_owned()), ("x-gitea-signature", signed)],
            _ => {
                vec![("x-gitlab-event", "Push Hook".to_owned()), ("x-gitlab-token", secret.clone())]
            }
        };
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = post(suite.address, &path, &headers, &body).await;
        assert_eq!(answer, (202, "1 deployed, 0 waiting".to_owned()));
        let page = async || it.page(&follows, "/").await.starts_with(format).then_some(());
        eventually("the page", page).await;
        eventually("the end", async || (it.state(&follows).await == "RUNNING").then_some(())).await;
        let list = it.owner().tell(&format!("{TASKS}/ListTasks"), it.of(&follows, json!({}))).await;
        let tasks = list["tasks"].as_array().unwrap();
        assert_eq!(tasks.len(), number + 1);
        assert_eq!(
            (&tasks[0]["trigger"], &tasks[0]["commit"]),
            (&json!("TASK_TRIGGER_PUSH"), &json!(commit))
        );
        assert_eq!(tasks[0]["commitSubject"], "Change the page");
    }
    assert_eq!(it.state(&stays).await, "PENDING");
    suite.finish().await;
}

/// PE-46: only what is signed counts; what is no push to a followed branch does nothing, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn only_signed_pushes_to_followed_branches_deploy() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    it.environment_with(json!({ "name": "main", "autoDeploy": true })).await;
    let (path, old) = hook(&it).await;
    let (_, secret) = hook(&it).await;
    let body = pushed("main", &"a".repeat(40));
    let send = async |path: &str, event: &str, secret: &str, body: &str| {
        let signed = format!("sha256={}", signature(secret, body));
        let headers = [("x-github-event", event), ("x-hub-signature-256", signed.as_str())];
        post(suite.address, path, &headers, body).await
    };
    assert_eq!(send(&path, "push", &old, &body).await.0, 401, "the old secret ended");
    assert_eq!(send(&path, "push", "guessed", &body).await.0, 401);
    let elsewhere = format!("/hooks/push/{}", chassis::id::new());
    assert_eq!(send(&elsewhere, "push", &secret, &body).await.0, 401);
    assert_eq!(send("/hooks/push/x", "push", &secret, &body).await.0, 401);
    let changed = signature(&secret, &body);
    let changed = [("x-github-event", "push"), ("x-hub-signature-256", changed.as_str())];
    assert_eq!(post(suite.address, &path, &changed, &body.replace("main", "evil")).await.0, 401);
    for (event, body) in [
        ("ping", "{}".to_owned()),
        ("push", pushed("feature", &"a".repeat(40))),
        ("push", pushed("main", &"0".repeat(40))),
        ("push", "no json".to_owned()),
    ] {
        assert_eq!(send(&path, event, &secret, &body).await.0, 200, "{event} {body}");
    }
    assert_eq!(suite.count("select count(*) from project.task").await, 0);
    suite.finish().await;
}

/// PE-46: pushes that come while an environment is busy wait, and of many the last one wins.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_pushes_the_last_one_wins() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
    hand.beat().await;
    let draft = json!({ "name": "main", "autoDeploy": true, "serverId": hand.server });
    let id = it.environment_with(draft).await;
    let (path, secret) = hook(it).await;
    let mut answers = vec![];
    for number in 1..6 {
        let body = pushed("main", &number.to_string().repeat(40));
        let signed = signature(&secret, &body);
        let headers = [("x-gitea-event", "push"), ("x-gitea-signature", signed.as_str())];
        answers.push(post(suite.address, &path, &headers, &body).await.1);
    }
    assert_eq!(answers[0], "1 deployed, 0 waiting");
    assert!(answers[1..].iter().all(|it| it == "0 deployed, 1 waiting"), "{answers:?}");
    let tasks = "select count(*) from project.task";
    assert_eq!(suite.count(tasks).await, 1);
    let served = json!({ "commit": "1111111", "url": "http://127.0.0.1:1" });
    let first = hand.lease().await;
    hand.finish(&first, served.clone()).await.unwrap();
    assert_eq!(it.state(&id).await, "DEPLOYING", "what waited begins by itself");
    let second = hand.lease().await;
    assert_ne!(second["taskId"], first["taskId"]);
    hand.finish(&second, served).await.unwrap();
    assert_eq!((hand.lease().await, suite.count(tasks).await), (Value::Null, 2));
    suite.finish().await;
}
