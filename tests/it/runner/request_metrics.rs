//! Requests and network traffic in the metrics of an environment: real visitors, Caddy and a real runner.

use serde_json::json;
use testkit::{Suite, eventually};

use crate::support::{
    hosting::ENVIRONMENTS,
    web_site::{RunnerAccount, WebSite, WebSocket},
    world::text,
};

/// Sums of the points of a day.
#[derive(Debug, Default)]
struct Sums {
    requests: i64,
    errors: i64,
    received_bytes: i64,
    sent_bytes: i64,
    latency_max_ms: f64,
}

async fn sums(site: &WebSite, id: &str) -> Sums {
    let request = site.hosting.request(id, json!({}));
    let curve = site.hosting.owner().call_ok(&format!("{ENVIRONMENTS}/GetMetrics"), request).await;
    let mut sums = Sums::default();
    for point in curve["points"].as_array().into_iter().flatten() {
        let number = |name: &str| text(&point[name]).parse().unwrap_or(0);
        sums.requests += number("requestCount");
        sums.errors += number("errorCount");
        sums.received_bytes += number("receivedBytes");
        sums.sent_bytes += number("sentBytes");
        let latency = point["latencyAverageMs"].as_f64().unwrap_or(0.0);
        sums.latency_max_ms = sums.latency_max_ms.max(latency);
    }
    sums
}

/// Ends minutes until the metrics have a number of requests.
async fn sums_with(suite: &Suite, site: &WebSite, id: &str, requests: i64) -> Sums {
    eventually("the metrics of the requests", async || {
        suite.clock.advance(chassis::clock::Duration::minutes(1));
        let sums = sums(site, id).await;
        assert!(sums.requests <= requests, "{sums:?}");
        (sums.requests == requests).then_some(sums)
    })
    .await
}

async fn requests_are_counted(account: RunnerAccount) {
    let suite = Suite::start().await;
    let mut site = WebSite::new(&suite, account).await;
    let id = site.environment("main").await;
    site.run("Deploy", &id, json!({})).await;
    let url = site.url(&id).await;
    let visitor = site.visitor(&["main-hosted", "other"]);
    let get = async |path: &str| visitor.get(format!("{url}{path}")).send().await.unwrap().status();

    for _ in 0..20 {
        assert_eq!(get("/").await, 200);
    }
    // The program ends without a response.
    assert_eq!(get("/end").await, 503);
    // Neither web sockets nor requests for other hosts count.
    let mut socket = WebSocket::open(&visitor, &url).await;
    socket.ask().await.unwrap();
    drop(socket);
    assert_eq!(visitor.get(site.url_of("other")).send().await.unwrap().status(), 404);
    let counted = sums_with(&suite, &site, &id, 21).await;
    assert_eq!(counted.errors, 1);
    assert!(counted.latency_max_ms > 0.0 && counted.latency_max_ms < 60_000.0, "{counted:?}");
    // Health checks are traffic, too.
    if rustix::process::geteuid().is_root() && matches!(account, RunnerAccount::Own) {
        eventually("the bytes of the network", async || {
            suite.clock.advance(chassis::clock::Duration::minutes(1));
            let sums = sums(&site, &id).await;
            (sums.sent_bytes > 1_000 && sums.received_bytes > 1_000).then_some(())
        })
        .await;
    } else {
        assert_eq!((counted.sent_bytes, counted.received_bytes), (0, 0));
    }

    // Neither another runner nor another Caddy counts a request twice.
    site.kill_runner();
    site.kill_proxy();
    site.start_runner();
    let mut responses = 0;
    let mut is_served = false;
    while !is_served {
        let response =
            eventually("the next Caddy", async || visitor.get(&url).send().await.ok()).await;
        responses += 1;
        is_served = response.status() == 200;
    }
    sums_with(&suite, &site, &id, 21 + responses).await;
    site.finish(suite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_with_networks() {
    requests_are_counted(RunnerAccount::Own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_without_privileges() {
    requests_are_counted(RunnerAccount::Unprivileged).await;
}
