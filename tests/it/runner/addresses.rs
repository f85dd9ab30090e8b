//! Host names of environments, served by a real Caddy: states, web sockets, kills.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use testkit::{Suite, eventually};

use crate::support::{
    hosting::ENVIRONMENTS,
    web_site::{RunnerAccount, WebSite, WebSocket, parts},
    world::text,
};

async fn an_environment_has_a_stable_address(account: RunnerAccount) {
    let suite = Suite::start().await;
    let site = WebSite::new(&suite, account).await;
    let id = site.environment("Main").await;
    site.run("Deploy", &id, json!({})).await;
    let url = site.url_of("main-hosted");
    assert_eq!(site.url(&id).await, url);
    assert_eq!(site.hosting.get(&id).await["hostname"], "main-hosted.apps.test");
    let visitor = site.visitor(&["main-hosted", "other"]);
    let get = async |url: &str| parts(visitor.get(url).send().await.unwrap()).await;

    // The program gets the address of the client and the host from Caddy, not from the client.
    let mut request = visitor.get(format!("{url}/path?query"));
    for (name, value) in [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Proto", "gopher"),
        ("X-Real-Ip", "6.6.6.6"),
        ("Forwarded", "for=6.6.6.6"),
    ] {
        request = request.header(name, value);
    }
    let (status, _, body) = parts(request.send().await.unwrap()).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.starts_with("one\nGET /path?query HTTP/1.1\r\n"), "{body}");
    let body = body.to_lowercase();
    for expected in ["x-forwarded-for: 127.0.0.1\r\n", "x-forwarded-proto: https\r\n"] {
        assert!(body.contains(expected), "{expected}: {body}");
    }
    assert!(body.contains("x-forwarded-host: main-hosted.apps.test"), "{body}");
    assert!(
        !body.contains("6.6.6.6") && !body.contains("evil") && !body.contains("gopher"),
        "{body}"
    );

    // Its certificate is that of all environments, from the authority of Caddy.
    let certificate = eventually("a check of the certificate", async || {
        let request = site.hosting.request(&id, json!({}));
        let method = format!("{ENVIRONMENTS}/GetEnvironmentHealth");
        let health = site.hosting.owner().call_ok(&method, request).await;
        health["health"]["certificate"].as_object().cloned()
    })
    .await;
    assert_eq!(certificate["hostname"], "main-hosted.apps.test");
    assert!(text(&certificate["endTime"]) > text(&certificate["startTime"]));

    // Other hosts, also in the header only, get no program.
    assert_eq!(get(&site.url_of("other")).await.0, 404);
    for host in ["other.apps.test", "127.0.0.1", "main-hosted.apps.test.evil", "evil:443"] {
        let response = visitor.get(&url).header("Host", host).send().await.unwrap();
        assert_eq!(parts(response).await.0, 404, "{host}");
    }
    let response = visitor.get(&url).header("Host", "{http.request.uri}").send().await.unwrap();
    assert_eq!(response.status(), 400, "not a host");
    let http = format!("http://main-hosted.apps.test:{}", site.http.number());
    let response = visitor.get(format!("{http}/a?b")).send().await.unwrap();
    assert_eq!(response.status(), 308);
    assert_eq!(response.headers()["location"], format!("{url}/a?b").as_str());
    let response = visitor.get(&http).header("Host", "evil.test").send().await.unwrap();
    assert_eq!(response.status(), 404, "no redirect to a host of the client");

    // Each state without a program has a page.
    for (verb, text, back) in [("Stop", "stopped", "Start"), ("Pause", "paused", "Resume")] {
        site.run(verb, &id, json!({})).await;
        let (status, cache, body) = get(&url).await;
        assert_eq!((status, cache.as_str()), (503, "no-store"), "{verb}");
        assert!(body.contains(&format!("This site is {text}")), "{body}");
        site.run(back, &id, json!({})).await;
        assert_eq!(get(&url).await.0, 200, "{back}");
    }
    assert_eq!(site.url(&id).await, url, "the address is stable");
    site.run("Destroy", &id, json!({ "confirmName": "Main" })).await;
    let (status, cache, _) = get(&url).await;
    assert_eq!((status, cache.as_str()), (404, "no-store"));
    site.finish(suite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_has_a_stable_address_with_networks() {
    an_environment_has_a_stable_address(RunnerAccount::Own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_has_a_stable_address_without_privileges() {
    an_environment_has_a_stable_address(RunnerAccount::Unprivileged).await;
}

/// Only the runner can configure Caddy, which has an account of its own where the runner is root.
#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_has_few_privileges_and_a_private_socket() {
    use std::os::unix::fs::MetadataExt;
    let suite = Suite::start().await;
    let site = WebSite::new(&suite, RunnerAccount::Own).await;
    let run = std::fs::metadata(site.data_dir().join("proxy/run")).unwrap();
    assert_eq!(run.mode() & 0o777, 0o700);
    let pid = site.proxy_pid().expect("a running Caddy");
    let process = std::fs::metadata(format!("/proc/{pid}")).unwrap();
    assert_eq!(process.uid(), run.uid());
    if rustix::process::geteuid().is_root() {
        assert_ne!(run.uid(), 0);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        // CAP_NET_BIND_SERVICE is bit 10.
        for line in ["CapEff:\t0000000000000400", "CapBnd:\t0000000000000400", "NoNewPrivs:\t1"] {
            assert!(status.contains(line), "{line}: {status}");
        }
    }
    site.finish(suite).await;
}

/// A program that ended, and one that ends whenever it starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_environment_has_a_page() {
    let suite = Suite::start().await;
    let site = WebSite::new(&suite, RunnerAccount::Unprivileged).await;
    let id = site.environment("main").await;
    site.run("Deploy", &id, json!({})).await;
    let url = site.url(&id).await;
    let visitor = site.visitor(&["main-hosted"]);
    let record = site.data_dir().join(&id).join("record.json");
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    // Without the code no restart succeeds.
    let code = site.data_dir().join(&id).join("releases").join(record["release"].as_str().unwrap());
    std::fs::remove_file(code.join("server.pl")).unwrap();
    let init = record["process"]["init"]["pid"].as_i64().unwrap();
    let init = Pid::from_raw(i32::try_from(init).unwrap()).unwrap();
    kill_process(init, Signal::KILL).unwrap();
    for text in ["does not respond", "has failed"] {
        eventually(text, async || {
            let (status, cache, body) = parts(visitor.get(&url).send().await.ok()?).await;
            assert!(status != 503 || cache == "no-store", "{body}");
            (status == 503 && body.contains(text)).then_some(())
        })
        .await;
    }
    site.finish(suite).await;
}

/// A web socket goes on with the replaced program until it ends, also when routes of other environments
/// change.
#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_survives_the_replacement_of_its_program() {
    let suite = Suite::start().await;
    let site = WebSite::new(&suite, RunnerAccount::Own).await;
    let id = site.environment("main").await;
    site.run("Deploy", &id, json!({})).await;
    let url = site.url(&id).await;
    let visitor = site.visitor(&["main-hosted"]);
    let mut socket = WebSocket::open(&visitor, &url).await;
    assert_eq!(socket.ask().await.as_deref(), Some("one\n"));
    let other = site.environment("other").await;
    site.run("Deploy", &other, json!({})).await;
    site.run("Stop", &other, json!({})).await;
    assert_eq!(
        socket.ask().await.as_deref(),
        Some("one\n"),
        "routes of another environment changed"
    );

    site.hosting.repository.commit("two");
    let task = site.hosting.start_task("Deploy", &id, json!({})).await;
    eventually("the new version", async || {
        let body = visitor.get(&url).send().await.unwrap().text().await.unwrap();
        body.starts_with("two").then_some(())
    })
    .await;
    assert_eq!(socket.ask().await.as_deref(), Some("one\n"), "the old version serves it");
    let current = site.hosting.task(&task).await;
    assert_eq!(current["state"], "TASK_STATE_RUNNING", "the old version has not ended");
    drop(socket);
    let task = site.hosting.finished_task(&task).await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    let mut socket = WebSocket::open(&visitor, &url).await;
    assert_eq!(socket.ask().await.as_deref(), Some("two\n"));
    drop(socket);
    site.finish(suite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn environments_are_served_again_after_kills() {
    let suite = Suite::start().await;
    let mut site = WebSite::new(&suite, RunnerAccount::Own).await;
    let id = site.environment("main").await;
    site.run("Deploy", &id, json!({})).await;
    let url = site.url(&id).await;
    let visitor = site.visitor(&["main-hosted"]);
    let is_served = async || {
        let response = visitor.get(&url).send().await.ok()?;
        (response.status() == 200).then_some(())
    };
    let kill = |pid: i32| kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let first = site.proxy_pid().expect("a running Caddy");
    kill(first);
    eventually("a new proxy", is_served).await;
    let second = site.proxy_pid().expect("a running Caddy");
    assert_ne!(first, second);

    site.kill_runner();
    is_served().await.expect("the proxy does not need the runner");
    site.start_runner();
    site.run("Stop", &id, json!({})).await;
    assert_eq!(visitor.get(&url).send().await.unwrap().status(), 503);
    site.run("Start", &id, json!({})).await;
    is_served().await.expect("the new runner configures the running proxy");
    assert_eq!(site.proxy_pid(), Some(second));

    site.kill_runner();
    kill(second);
    tokio::time::timeout(Duration::from_secs(5), async { while is_served().await.is_some() {} })
        .await
        .expect("nothing serves");
    site.start_runner();
    eventually("a proxy of the new runner", is_served).await;
    site.finish(suite).await;
}
