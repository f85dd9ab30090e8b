//! Alerts that the suite raises itself: about environments by heartbeats, about servers by missing ones.

use api::admin::ListJobsRequest;
use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Nats, Options, Suite, eventually};

use crate::{
    notification::notification_service::{
        ALERTS, PREFER, mails, notifications, preference, wait_for_notifications,
    },
    support::{
        admin_client::connect,
        fake_runner::{FakeRunner, success_result},
        hosting::{ENVIRONMENTS, SERVERS},
        world::{merge, text},
    },
};

const MIB: i64 = 1 << 20;

/// A suite whose clock is moved by the test only, and a server with one environment with 512 MiB.
struct Scene {
    suite: Suite,
    runner: FakeRunner,
    environment: String,
}

impl Scene {
    async fn new() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let suite = Suite::start_with(options).await;
        let runner = FakeRunner::new(&suite).await;
        runner.heartbeat().await;
        let environment = runner.environment("main").await;
        runner.hosting.start_task("Deploy", &environment, json!({})).await;
        runner.finish_task(&runner.lease_task().await, success_result()).await.unwrap();
        suite.clock.stop();
        Self { suite, runner, environment }
    }

    fn healthy(&self) -> Value {
        json!({ "environmentId": self.environment, "observed": "OBSERVED_RUNNING", "httpOk": true })
    }

    /// Sends a heartbeat after a time, and one in each minute of it, so that the server is never silent.
    async fn report(&self, after: Duration, more: Value) {
        let heartbeat = json!({ "environments": [merge(self.healthy(), more)] });
        let mut remaining = after;
        while remaining.is_positive() {
            let step = remaining.min(Duration::MINUTE);
            self.suite.clock.advance(step);
            self.runner.call("Heartbeat", heartbeat.clone()).await.unwrap();
            remaining -= step;
        }
    }

    /// Sends a heartbeat at the begin and at the end of a time.
    async fn report_for(&self, time: Duration, more: Value) {
        self.report(Duration::SECOND, more.clone()).await;
        self.report(time, more).await;
    }

    /// Open alerts that the owner sees, by kind.
    async fn open_alerts(&self) -> Vec<String> {
        let hosting = &self.runner.hosting;
        let answer = hosting.owner().call_ok(ALERTS, hosting.world.org_request(json!({}))).await;
        let alerts = answer["alerts"].as_array().cloned().unwrap_or_default();
        let mut kinds: Vec<_> = alerts
            .iter()
            .map(|it| text(&it["kind"]).trim_start_matches("ALERT_KIND_").to_owned())
            .collect();
        kinds.sort();
        kinds
    }

    async fn wait_for_alerts(&self, kinds: &[&str]) {
        eventually(&format!("the open alerts {kinds:?}"), async || {
            (self.open_alerts().await == kinds).then_some(())
        })
        .await;
    }

    /// Waits until every change of an alert is reported.
    async fn wait_for_reports(&self) {
        let unreported = "select count(*) from project.alert where version <> reported_version";
        eventually("the reports", async || (self.suite.count(unreported).await == 0).then_some(()))
            .await;
    }

    async fn phase(&self, kind: &str) -> Option<String> {
        let phase = "select phase from project.alert where kind = $1 and target_id = $2::uuid";
        let phase = sqlx::query_scalar(phase).bind(kind).bind(&self.environment);
        phase.fetch_optional(&self.suite.pool).await.unwrap()
    }
}

/// Memory that fills up opens an alert after five minutes, with one mail; free memory closes it.
#[tokio::test(flavor = "multi_thread")]
async fn memory_that_fills_up_is_mailed_once() {
    let scene = Scene::new().await;
    let owner = scene.runner.hosting.owner();
    owner.call_ok(PREFER, preference("MONITORING", "EMAIL", true)).await;
    let memory = |mib: i64| json!({ "memoryBytes": (mib * MIB).to_string() });
    scene.report_for(Duration::minutes(4), memory(470)).await;
    assert_eq!(scene.phase("high_memory").await.as_deref(), Some("pending"));
    for _ in 0..5 {
        scene.report(Duration::MINUTE, memory(490)).await;
    }
    scene.wait_for_alerts(&["HIGH_MEMORY"]).await;
    let opened = wait_for_notifications(owner, "alert.opened", 1).await;
    assert_eq!(opened[0]["title"], "main: memory usage is high");
    assert_eq!(opened[0]["body"], "Measured value: 95 %.");
    // Between both limits it stays open.
    scene.report_for(Duration::minutes(15), memory(450)).await;
    let mailed = || {
        let mails = mails(&scene.suite, &owner.email).into_iter();
        mails.filter(|it| it.contains("memory usage is high")).count()
    };
    eventually("the mail", async || (mailed() == 1).then_some(())).await;
    assert_eq!(scene.open_alerts().await, ["HIGH_MEMORY"]);
    scene.report_for(Duration::minutes(5), memory(400)).await;
    scene.wait_for_alerts(&[]).await;
    let closed = wait_for_notifications(owner, "alert.closed", 1).await;
    assert_eq!(closed[0]["title"], "main recovered");
    scene.wait_for_reports().await;
    assert_eq!(notifications(owner, "alert.opened").await.len(), 1);
    assert_eq!(mailed(), 1);
    scene.suite.finish().await;
}

/// A certificate that is not renewed opens an alert, which its renewal closes; it is in the health.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_renewed_is_reported() {
    let scene = Scene::new().await;
    let now = scene.suite.clock.now();
    let format = &time::format_description::well_known::Rfc3339;
    let days = |from_now: i64| (now + Duration::days(from_now)).format(format).unwrap();
    let certificate = |start: i64, end: i64| {
        json!({ "certificate": {
            "hostname": "shop.example.com", "startTime": days(start), "endTime": days(end) } })
    };
    scene.report_for(Duration::minutes(5), certificate(-80, 10)).await;
    scene.wait_for_alerts(&["CERTIFICATE_EXPIRING"]).await;
    let hosting = &scene.runner.hosting;
    let opened = wait_for_notifications(hosting.owner(), "alert.opened", 1).await;
    assert_eq!(opened[0]["title"], "main: a certificate expires soon");
    let body = text(&opened[0]["body"]);
    assert!(body.starts_with("Measured value: shop[.]example[.]com until 20"), "{body}");
    let health = async || {
        let request = hosting.request(&scene.environment, json!({}));
        hosting.owner().call_ok(&format!("{ENVIRONMENTS}/GetEnvironmentHealth"), request).await
    };
    assert_eq!(health().await["health"]["certificate"]["hostname"], "shop.example.com");
    scene.report(Duration::SECOND, json!({})).await;
    assert_eq!(health().await["health"]["certificate"], Value::Null);
    scene.report_for(Duration::MINUTE, certificate(0, 90)).await;
    scene.wait_for_alerts(&[]).await;
    for bad in [json!({ "hostname": "a b" }), json!({ "hostname": "shop.example.com" })] {
        let report = merge(scene.healthy(), json!({ "certificate": bad }));
        let answer = scene.runner.call("Heartbeat", json!({ "environments": [report] })).await;
        let reason = text(&answer.unwrap()["rejectedReports"][0]["reason"]);
        assert!(reason.contains("certificate"), "{reason}");
    }
    scene.suite.finish().await;
}

/// A silent server opens an alert after two minutes, and closes it a minute after its return.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_reported_until_it_returns() {
    let scene = Scene::new().await;
    scene.report(Duration::SECOND, json!({})).await;
    scene.suite.clock.advance(Duration::seconds(121));
    scene.wait_for_alerts(&["SERVER_UNREACHABLE"]).await;
    scene.report(Duration::SECOND, json!({})).await;
    scene.report(Duration::seconds(59), json!({})).await;
    assert_eq!(scene.open_alerts().await, ["SERVER_UNREACHABLE"]);
    scene.report(Duration::SECOND, json!({})).await;
    scene.wait_for_alerts(&[]).await;
    // The alert of a server ends with it.
    let hosting = &scene.runner.hosting;
    let confirm = json!({ "confirmName": "main", "force": true });
    scene.suite.clock.advance(Duration::seconds(121));
    scene.wait_for_alerts(&["SERVER_UNREACHABLE"]).await;
    let destroy = format!("{ENVIRONMENTS}/DestroyEnvironment");
    hosting.owner().call_ok(&destroy, hosting.request(&scene.environment, confirm)).await;
    let remove = hosting.world.org_request(json!({ "serverId": scene.runner.server }));
    hosting.owner().call_ok(&format!("{SERVERS}/RemoveServer"), remove).await;
    scene.wait_for_alerts(&[]).await;
    scene.suite.finish().await;
}

/// Each problem of a program and its deployment opens the alert of its kind; all close with the environment.
#[tokio::test(flavor = "multi_thread")]
async fn problems_of_a_program_are_reported() {
    let scene = Scene::new().await;
    let hosting = &scene.runner.hosting;
    let id = &scene.environment;
    scene.report_for(Duration::MINUTE, json!({ "httpOk": false })).await;
    scene.wait_for_alerts(&["UNHEALTHY"]).await;
    scene.report_for(Duration::MINUTE, json!({ "restartCount": 3 })).await;
    scene.wait_for_alerts(&["RESTARTING"]).await;
    scene.report_for(Duration::minutes(10), json!({ "restartCount": 3 })).await;
    scene.report(Duration::MINUTE, json!({ "restartCount": 3 })).await;
    scene.wait_for_alerts(&[]).await;
    let failed = json!({ "observed": "OBSERVED_FAILED", "httpOk": false, "restartCount": 3 });
    scene.report_for(Duration::MINUTE, failed).await;
    assert_eq!(hosting.state(id).await, "ERROR");
    scene.wait_for_alerts(&["PROCESS_DOWN"]).await;

    // A failed deployment; then one that succeeds.
    hosting.start_task("Deploy", id, json!({})).await;
    let lease = scene.runner.lease_task().await;
    let error = json!({ "errorMessage": "no", "observed": "OBSERVED_RUNNING" });
    scene.runner.finish_task(&lease, error).await.unwrap();
    scene.report_for(Duration::minutes(5), json!({})).await;
    scene.wait_for_alerts(&["DEPLOYMENT_FAILED"]).await;
    hosting.start_task("Deploy", id, json!({})).await;
    scene.runner.finish_task(&scene.runner.lease_task().await, success_result()).await.unwrap();
    scene.report_for(Duration::MINUTE, json!({})).await;
    scene.wait_for_alerts(&[]).await;

    // An environment that is stopped has no problem; the alerts of one that is destroyed end with it.
    let full = json!({ "diskBytes": (5 * 1_024 * MIB).to_string() });
    scene.report_for(Duration::minutes(5), full).await;
    scene.wait_for_alerts(&["LOW_DISK"]).await;
    let confirm = json!({ "confirmName": "main" });
    hosting.start_task("Destroy", id, confirm).await;
    scene.runner.finish_task(&scene.runner.lease_task().await, json!({})).await.unwrap();
    scene.wait_for_alerts(&[]).await;
    // Closed alerts are forgotten after a day.
    scene.wait_for_reports().await;
    let Scene { suite, .. } = scene;
    suite.clock.advance(Duration::hours(25));
    let suite = suite.restart(async |_| {}).await;
    let alerts = "select count(*) from project.alert where kind <> 'server_unreachable'";
    eventually("the deletion", async || (suite.count(alerts).await == 0).then_some(())).await;
    suite.finish().await;
}

/// A condition that comes and goes, reported to two replicas at the same time, opens one alert, which stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_flapping_condition_notifies_few_times() {
    let nats = Nats::start();
    let scene = Scene::with(Options { nats_url: Some(nats.url()), ..Options::default() }).await;
    let owner = scene.runner.hosting.owner();
    let replica = scene.suite.replica().await;
    let clients = [&scene.suite, &replica].map(|it| it.client.with_token(&scene.runner.token));
    let report = async |seconds: i64, http_ok: bool| {
        scene.suite.clock.advance(Duration::seconds(seconds));
        let report = merge(scene.healthy(), json!({ "httpOk": http_ok }));
        let heartbeat = json!({ "runner": "fake", "environments": [report] });
        let send = |it: usize| {
            clients[it].call_json("project.v1.RunnerService/Heartbeat", heartbeat.clone())
        };
        let (first, second) = tokio::join!(send(0), send(1));
        first.unwrap();
        second.unwrap();
    };
    // Too short to open an alert.
    for _ in 0..10 {
        report(50, false).await;
        report(5, true).await;
    }
    assert_eq!(scene.suite.count("select count(*) from project.alert").await, 0);
    // Long enough to open and close the first ones.
    for _ in 0..30 {
        report(5, false).await;
        report(65, false).await;
        // An opening that is not reported before its end is not reported at all.
        scene.wait_for_reports().await;
        report(5, true).await;
        report(65, true).await;
        scene.wait_for_reports().await;
    }
    scene.wait_for_alerts(&["UNHEALTHY"]).await;
    wait_for_notifications(owner, "alert.closed", 1).await;
    let opened = notifications(owner, "alert.opened").await.len();
    assert_eq!(opened, 2, "of 30 times");
    replica.stop_replica().await;
    scene.suite.finish().await;
}

/// A report that fails is repeated after a minute; the alert is not lost, and opens once.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_fails_is_repeated() {
    let scene = Scene::new().await;
    let execute =
        async |sql: &'static str| sqlx::query(sql).execute(&scene.suite.pool).await.unwrap();
    execute("alter table invitation.alert rename to renamed").await;
    scene.report_for(Duration::MINUTE, json!({ "httpOk": false })).await;
    let admin = connect(scene.suite.data_dir()).await;
    eventually("a failed report", async || {
        let jobs = admin.clone().list_jobs(ListJobsRequest {}).await.unwrap().into_inner().jobs;
        jobs.iter().any(|it| it.name == "alerts" && !it.last_error.is_empty()).then_some(())
    })
    .await;
    execute("alter table invitation.renamed rename to alert").await;
    assert_eq!(scene.open_alerts().await, [""; 0]);
    scene.report(Duration::seconds(61), json!({ "httpOk": false })).await;
    scene.wait_for_alerts(&["UNHEALTHY"]).await;
    scene.wait_for_reports().await;
    let owner = scene.runner.hosting.owner();
    assert_eq!(wait_for_notifications(owner, "alert.opened", 1).await.len(), 1);
    scene.suite.finish().await;
}
