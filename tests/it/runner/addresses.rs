//! Host names of environments, served by a real Caddy: states, replacements without failed requests, kills.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use testkit::{Suite, eventually};

use crate::support::web_site::{RunnerAccount, WebSite, WebSocket, parts};

/// Number of deployments while visitors send requests; every third one is followed by a rollback, every other
/// one by a restart.
const DEPLOYMENTS: usize = 10;

/// Smallest number of requests in that time.
const REQUESTS_MIN: usize = 2_000;

/// Number of visitors that send requests at the same time.
const VISITORS: usize = 4;

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

/// Counts requests and failures of visitors until it is stopped.
struct Load {
    requests: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    visitors: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(site: &WebSite, url: &str) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let visitors = (0..VISITORS).map(|_| {
            let (visitor, url) = (site.visitor(&["main-hosted"]), url.to_owned());
            let (requests, stop) = (requests.clone(), stop.clone());
            tokio::spawn(async move {
                let mut failures = vec![];
                while !stop.load(Ordering::Relaxed) {
                    requests.fetch_add(1, Ordering::Relaxed);
                    match visitor.get(&url).send().await {
                        Ok(response) if response.status() == 200 => {
                            failures.extend(response.text().await.err().map(|it| it.to_string()));
                        }
                        Ok(response) => failures.push(response.status().to_string()),
                        Err(error) => failures.push(format!("{error:?}")),
                    }
                }
                failures
            })
        });
        let visitors = visitors.collect();
        Self { requests, stop, visitors }
    }

    /// Waits for a number of requests; returns the failed ones.
    async fn finish(self, requests_min: usize) -> Vec<String> {
        let count = async || self.requests.load(Ordering::Relaxed);
        eventually("the requests", async || (count().await >= requests_min).then_some(())).await;
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = vec![];
        for visitor in self.visitors {
            failures.extend(visitor.await.unwrap());
        }
        failures
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_programs_are_replaced() {
    let suite = Suite::start().await;
    let site = WebSite::new(&suite, RunnerAccount::Own).await;
    let id = site.environment("main").await;
    site.run("Deploy", &id, json!({})).await;
    let url = site.url(&id).await;
    let load = Load::start(&site, &url);
    for number in 0..DEPLOYMENTS {
        let page = format!("version-{number}");
        site.hosting.repository.commit(&page);
        site.run("Deploy", &id, json!({})).await;
        let visitor = site.visitor(&["main-hosted"]);
        let body = visitor.get(&url).send().await.unwrap().text().await.unwrap();
        assert!(body.starts_with(&page), "{body}");
        if number % 2 == 1 {
            site.run("Restart", &id, json!({})).await;
        }
        if number % 3 == 2 {
            site.run("Rollback", &id, json!({})).await;
        }
    }
    let failures = load.finish(REQUESTS_MIN).await;
    // Without networks of environments Caddy gets another configuration for each replacement, and then drops
    // connections whose request it has not read.
    let failures_max = if rustix::process::geteuid().is_root() { 0 } else { REQUESTS_MIN / 100 };
    assert!(failures.len() <= failures_max, "{failures:?}");
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
