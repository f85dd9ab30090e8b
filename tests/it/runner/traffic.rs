//! Requests and web sockets of visitors while the program of an environment is deployed, restarted and rolled
//! back. `cargo xtask traffic` runs the same tests for longer, and prints their figures.

use std::{
    env,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::Client;
use serde_json::json;
use testkit::{BASE_IMAGE, Engine, Suite, eventually};

use crate::support::web_site::{APPS_DOMAIN, Proxy, RunnerAccount, WebSite, WebSocket};

/// Number of visitors that send requests at the same time, each on a connection of its own.
const VISITORS: usize = 4;

/// Number of visitors with a web socket.
const SOCKETS: usize = 2;

/// Pause between two requests of a visitor, so that they leave the machine time for deployments.
const REQUEST_INTERVAL: Duration = Duration::from_millis(20);

/// Number of messages on a web socket before it ends.
const MESSAGES: usize = 20;

/// Pause between two messages. Web sockets are shorter than the wait for the end of connections (30 s), also
/// on a busy machine.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(50);

/// Number in an environment variable that `cargo xtask traffic` sets, or the one of tests.
fn parameter(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |it| it.parse().unwrap())
}

/// Observations of visitors.
#[derive(Default)]
struct Counts {
    requests: AtomicUsize,
    sockets: AtomicUsize,
    stop: AtomicBool,
}

/// Visitors who send requests until they are stopped.
struct Load {
    counts: Arc<Counts>,
    visitors: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(site: &WebSite, url: &str) -> Self {
        let counts = Arc::new(Counts::default());
        let mut visitors = vec![];
        for number in 0..VISITORS + SOCKETS {
            let (visitor, url) = (site.visitor(&["main-hosted"]), url.to_owned());
            let counts = counts.clone();
            visitors.push(tokio::spawn(async move {
                let mut failures = vec![];
                while !counts.stop.load(Ordering::Relaxed) {
                    let visited = if number < VISITORS {
                        counts.requests.fetch_add(1, Ordering::Relaxed);
                        get(&visitor, &url).await
                    } else {
                        counts.sockets.fetch_add(1, Ordering::Relaxed);
                        talk(&visitor, &url).await
                    };
                    failures.extend(visited.err());
                    tokio::time::sleep(REQUEST_INTERVAL).await;
                }
                failures
            }));
        }
        Self { counts, visitors }
    }

    /// Waits for a number of requests; returns the failures.
    async fn finish(self, requests: usize) -> Vec<String> {
        let count = || self.counts.requests.load(Ordering::Relaxed);
        while count() < requests {
            let before = count();
            eventually("more requests", async || (count() > before).then_some(())).await;
        }
        self.counts.stop.store(true, Ordering::Relaxed);
        let mut failures = vec![];
        for visitor in self.visitors {
            failures.extend(visitor.await.unwrap());
        }
        failures
    }
}

async fn get(visitor: &Client, url: &str) -> Result<(), String> {
    let response = visitor.get(url).send().await.map_err(|it| format!("{it:?}"))?;
    let status = response.status();
    let body = response.text().await.map_err(|it| format!("{it:?}"))?;
    if status == 200 { Ok(()) } else { Err(format!("{status} {body}")) }
}

async fn talk(visitor: &Client, url: &str) -> Result<(), String> {
    let mut socket = WebSocket::try_open(visitor, url).await?;
    for number in 0..MESSAGES {
        if socket.ask().await.is_none() {
            return Err(format!("a web socket ended after {number} messages"));
        }
        tokio::time::sleep(MESSAGE_INTERVAL).await;
    }
    Ok(())
}

/// Deploys, restarts and rolls back under load. No request fails, and no web socket ends early.
async fn no_request_fails(driver: &str, arguments: Vec<String>) {
    let requests = parameter("TRAFFIC_REQUESTS", 1_000);
    let changes = parameter("TRAFFIC_CHANGES", 6);
    let suite = Suite::start().await;
    let proxy = Proxy { arguments, ..Proxy::new(APPS_DOMAIN) };
    let site = WebSite::with_proxy(&suite, RunnerAccount::Own, proxy).await;
    let id = site.environment("main").await;
    site.run("Deploy", &id, json!({})).await;
    let url = site.url(&id).await;
    let load = Load::start(&site, &url);
    let counts = load.counts.clone();
    for number in 0..changes {
        match number % 3 {
            0 => {
                let page = format!("version-{number}");
                site.hosting.repository.commit(&page);
                site.run("Deploy", &id, json!({})).await;
                let visitor = site.visitor(&["main-hosted"]);
                let body = visitor.get(&url).send().await.unwrap().text().await.unwrap();
                assert!(body.starts_with(&page), "{body}");
            }
            1 => site.run("Restart", &id, json!({})).await,
            _ => site.run("Rollback", &id, json!({})).await,
        }
    }
    let failures = load.finish(requests).await;
    let (requests, sockets) = (&counts.requests, &counts.sockets);
    let line = format!(
        "{driver}: {requests:?} requests and {sockets:?} web sockets, {} failed; {changes} changes\n",
        failures.len()
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    // Caddy before 2.8 needs it, which opens a connection to the program for each request.
    if rustix::process::geteuid().is_root() {
        let reuse = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_tw_reuse").unwrap();
        assert_ne!(reuse.trim(), "2", "ports of ended connections to programs are not used again");
    }
    assert!(failures.is_empty(), "{failures:?}");
    site.run("Destroy", &id, json!({ "confirmName": "main" })).await;
    site.finish(suite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_sandboxes_are_replaced() {
    no_request_fails("sandboxes", vec!["--driver=process".to_owned()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_containers_are_replaced() {
    let Some(engine) = Engine::shared().await else { return };
    let host = format!("--docker-host={}", engine.socket().display());
    no_request_fails("containers", vec![host, format!("--base-image={BASE_IMAGE}")]).await;
}
