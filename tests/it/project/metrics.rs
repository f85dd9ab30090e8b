//! Resource usage over time: minutes and hours of heartbeats, gaps, and the time ranges of curves.

use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Nats, Options, Suite, eventually};
use time::OffsetDateTime;

use crate::support::{
    fake_runner::FakeRunner,
    hosting::{ENVIRONMENTS, PROJECTS},
    world::{merge, text},
};

/// A suite whose clock stands at the begin of an hour, and a server with one environment.
struct Scene {
    suite: Suite,
    runner: FakeRunner,
    environment: String,
    hour: OffsetDateTime,
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
        suite.clock.stop();
        let now = suite.clock.now();
        let hour = now.replace_minute(0).unwrap().replace_second(0).unwrap();
        let hour = hour.replace_nanosecond(0).unwrap() + Duration::HOUR;
        let scene = Self { suite, runner, environment, hour };
        // Within the minute, for the clock follows that of the database by milliseconds.
        scene.advance_to(Duration::seconds(5));
        scene
    }

    /// Sets the clock to a time since the begin of the hour.
    fn advance_to(&self, since_hour: Duration) {
        self.suite.clock.advance(self.hour + since_hour - self.suite.clock.now());
    }

    async fn sample(&self, cpu_cores: f64, memory_bytes: i64) {
        let report = json!({ "cpuCores": cpu_cores, "memoryBytes": memory_bytes.to_string() });
        let answer = self.report(report).await;
        assert_eq!(answer["rejectedReports"], Value::Null, "{answer}");
    }

    async fn report(&self, more: Value) -> Value {
        let report = json!({ "environmentId": self.environment, "observed": "OBSERVED_RUNNING",
            "httpOk": true, "diskBytes": "4096" });
        let heartbeat = json!({ "environments": [merge(report, more)] });
        self.runner.call("Heartbeat", heartbeat).await.unwrap()
    }

    async fn curve(&self, more: Value) -> Result<Value, tenantry::client::CallError> {
        let hosting = &self.runner.hosting;
        let request = hosting.request(&self.environment, more);
        hosting.owner().call(&format!("{ENVIRONMENTS}/GetMetrics"), request).await
    }

    async fn points(&self, more: Value) -> Vec<Point> {
        let curve = self.curve(more).await.unwrap();
        let points = curve["points"].as_array().cloned().unwrap_or_default();
        points.iter().map(|it| self.point(it)).collect()
    }

    fn point(&self, it: &Value) -> Point {
        let format = &time::format_description::well_known::Rfc3339;
        let time = OffsetDateTime::parse(&text(&it["time"]), format).unwrap();
        let number = |name: &str| text(&it[name]).parse().unwrap_or_default();
        Point {
            minute: (time - self.hour).whole_minutes(),
            cpu_cores: (
                it["cpuCoresAverage"].as_f64().unwrap_or_default(),
                it["cpuCoresMax"].as_f64().unwrap_or_default(),
            ),
            memory_bytes: (number("memoryBytesAverage"), number("memoryBytesMax")),
            disk_bytes: number("diskBytes"),
        }
    }

    /// An RFC 3339 time since the begin of the hour.
    fn time(&self, since_hour: Duration) -> String {
        let format = &time::format_description::well_known::Rfc3339;
        (self.hour + since_hour).format(format).unwrap()
    }
}

/// A point: average and maximum of CPU and memory.
#[derive(Debug, PartialEq)]
struct Point {
    /// Since the begin of the hour.
    minute: i64,
    cpu_cores: (f64, f64),
    memory_bytes: (i64, i64),
    disk_bytes: i64,
}

fn point(minute: i64, cpu_cores: (f64, f64), memory_bytes: (i64, i64)) -> Point {
    Point { minute, cpu_cores, memory_bytes, disk_bytes: 4_096 }
}

/// Averages and maxima of minutes and hours; a time without heartbeats has no points.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_become_minutes_and_hours() {
    let scene = Scene::new().await;
    let Scene { suite, runner, .. } = &scene;
    assert_eq!(scene.points(json!({})).await, []);
    for (cpu_cores, memory_bytes) in [(1.0, 100), (0.25, 300), (0.25, 200)] {
        scene.sample(cpu_cores, memory_bytes).await;
        suite.clock.advance(Duration::seconds(5));
    }
    assert_eq!(scene.points(json!({})).await, [], "the minute has not ended");
    scene.advance_to(Duration::minutes(1) + Duration::seconds(5));
    scene.sample(2.0, 500).await;
    let first = || point(0, (0.5, 1.0), (200, 300));
    assert_eq!(scene.points(json!({})).await, [first()]);
    // A report without an observation counts for nothing; the minute that it ends is stored once.
    scene.advance_to(Duration::minutes(2) + Duration::seconds(5));
    for _ in 0..2 {
        scene.report(json!({ "observed": "OBSERVED_UNSPECIFIED", "cpuCores": 9.0 })).await;
    }
    scene.advance_to(Duration::hours(1) + Duration::minutes(5));
    scene.sample(0.0, 0).await;
    scene.advance_to(Duration::hours(1) + Duration::minutes(6));
    scene.sample(0.0, 0).await;
    let second = || point(1, (2.0, 2.0), (500, 500));
    let idle = || point(65, (0.0, 0.0), (0, 0));
    assert_eq!(scene.points(json!({})).await, [first(), second(), idle()], "and no other");
    // Four samples in the first hour.
    let hours = [point(0, (0.875, 2.0), (275, 500)), point(60, (0.0, 0.0), (0, 0))];
    assert_eq!(scene.points(json!({ "step": "3600s" })).await, hours);
    let ten_minutes = scene.points(json!({ "step": "600s" })).await;
    assert_eq!(ten_minutes, [point(0, (0.875, 2.0), (275, 500)), point(60, (0.0, 0.0), (0, 0))]);
    let (start, end) = (scene.time(Duration::minutes(1)), scene.time(Duration::minutes(65)));
    assert_eq!(scene.points(json!({ "startTime": start, "endTime": end })).await, [second()]);

    let overview = runner.hosting.world.project_request(json!({}));
    let method = format!("{PROJECTS}/GetProjectOverview");
    let overview = runner.hosting.owner().call_ok(&method, overview).await;
    let of_environment = &overview["overview"]["hourlyMetrics"][0];
    assert_eq!(of_environment["environmentId"], scene.environment);
    let points = of_environment["points"].as_array().unwrap();
    assert_eq!(points.iter().map(|it| scene.point(it)).collect::<Vec<_>>(), hours);
    // Minutes are kept for a day: a curve that begins before it has steps of an hour.
    let start = json!({ "startTime": scene.time(Duration::hours(-30)) });
    assert_eq!(scene.points(start).await, hours);
    scene.suite.finish().await;
}

/// Two replicas, a runner that repeats heartbeats, and clocks that are set back: each sample counts once.
#[tokio::test(flavor = "multi_thread")]
async fn samples_count_once_with_replicas_and_clocks_that_jump() {
    let nats = Nats::start();
    let scene = Scene::with(Options { nats_url: Some(nats.url()), ..Options::default() }).await;
    let replica = scene.suite.replica().await;
    let second = replica.client.with_token(&scene.runner.token);
    let request = json!({ "runner": "fake", "environments": [{ "environmentId": scene.environment,
        "observed": "OBSERVED_RUNNING", "cpuCores": 3.0, "memoryBytes": "300", "diskBytes": "4096" }] });
    scene.sample(1.0, 100).await;
    second.call_json("project.v1.RunnerService/Heartbeat", request.clone()).await.unwrap();
    // One clock is ahead of the other at the end of a minute.
    scene.advance_to(Duration::seconds(65));
    scene.sample(5.0, 500).await;
    scene.advance_to(Duration::seconds(55));
    second.call_json("project.v1.RunnerService/Heartbeat", request).await.unwrap();
    scene.advance_to(Duration::seconds(66));
    scene.sample(7.0, 700).await;
    scene.advance_to(Duration::seconds(125));
    scene.sample(0.0, 0).await;
    let all = [point(0, (7.0 / 3.0, 3.0), (233, 300)), point(1, (6.0, 7.0), (600, 700))];
    assert_eq!(scene.points(json!({})).await, all);
    let hour = scene.points(json!({ "step": "3600s" })).await;
    assert_eq!(hour, [point(0, (19.0 / 5.0, 7.0), (380, 700))]);

    // Both replicas at the same time.
    let heartbeat = async |client: &tenantry::client::Client| {
        let report = json!({ "runner": "fake", "environments": [{ "environmentId": scene.environment,
            "observed": "OBSERVED_RUNNING", "cpuCores": 1.0, "memoryBytes": "100", "diskBytes": "4096" }] });
        client.call_json("project.v1.RunnerService/Heartbeat", report).await.unwrap();
    };
    let first = scene.suite.client.with_token(&scene.runner.token);
    scene.advance_to(Duration::seconds(185));
    for _ in 0..8 {
        tokio::join!(heartbeat(&first), heartbeat(&second), heartbeat(&first));
    }
    scene.advance_to(Duration::seconds(245));
    scene.sample(0.0, 0).await;
    let samples = "select sample_count::bigint from project.metric_minute order by id desc limit 1";
    assert_eq!(scene.suite.count(samples).await, 24);
    replica.stop_replica().await;
    scene.suite.finish().await;
}

/// The difference of totals is the traffic of a minute; those of another runner begin again at 0.
#[tokio::test(flavor = "multi_thread")]
async fn totals_become_traffic_of_minutes_and_hours() {
    let scene = Scene::new().await;
    // Number of the runner, then requests, errors, seconds, bytes received, and bytes sent.
    let totals = async |minute: i64, totals: Option<[i64; 6]>| {
        scene.advance_to(Duration::minutes(minute) + Duration::seconds(5));
        let traffic = totals.map(|[runner, requests, errors, seconds, received, sent]| {
            let start = format!("2026-11-28T12:00:0{runner}.123456789Z");
            json!({ "startTime": start, "requestCount": requests, "errorCount": errors, "durationS": seconds,
                "receivedBytes": received, "sentBytes": sent })
        });
        let answer = scene.report(json!({ "traffic": traffic })).await;
        assert_eq!(answer["rejectedReports"], Value::Null, "{answer}");
    };
    for (minute, of_runner) in [
        (0, [1, 10, 1, 5, 1_000, 2_000]),
        (0, [1, 30, 1, 7, 1_500, 2_000]),
        (1, [1, 30, 1, 7, 1_500, 2_000]),
        (2, [2, 4, 2, 1, 100, 100]),
        (2, [2, 6, 2, 1, 100, 100]),
        // Impossible, and no traffic.
        (2, [2, 5, 1, 0, 50, 50]),
    ] {
        totals(minute, Some(of_runner)).await;
    }
    // A runner that measures no traffic.
    totals(3, None).await;
    totals(4, None).await;
    let traffic = async |step: &str| {
        let curve = scene.curve(json!({ "step": step })).await.unwrap();
        let points = curve["points"].as_array().unwrap();
        let number = |it: &Value| text(it).parse::<i64>().unwrap_or(0);
        let fields = ["requestCount", "errorCount", "receivedBytes", "sentBytes"];
        let of_point = |it: &Value| {
            let latency = it["latencyAverageMs"].as_f64().unwrap_or(0.0);
            (fields.map(|field| number(&it[field])), latency.round())
        };
        points.iter().map(of_point).collect::<Vec<_>>()
    };
    let minutes = [
        ([30, 1, 1_500, 2_000], 233.0),
        ([0, 0, 0, 0], 0.0),
        ([6, 2, 100, 100], 167.0),
        ([0, 0, 0, 0], 0.0),
    ];
    assert_eq!(traffic("60s").await, minutes);
    assert_eq!(traffic("3600s").await, [([36, 3, 1_600, 2_100], 222.0)]);
    scene.suite.finish().await;
}

/// Reports of environments on other servers and impossible values are not stored; the others are.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_impossible_samples_are_not_stored() {
    let scene = Scene::new().await;
    let hosting = &scene.runner.hosting;
    let other = hosting.create_environment(json!({ "name": "on the shared server" })).await;
    let answer = scene.report(json!({ "environmentId": other, "cpuCores": 64.0 })).await;
    assert_eq!(answer["unknownEnvironmentIds"], json!([other]));
    for bad in [
        json!({ "cpuCores": -0.1 }),
        json!({ "cpuCores": "NaN" }),
        json!({ "cpuCores": "Infinity" }),
        json!({ "cpuCores": 1e300 }),
        json!({ "memoryBytes": "-1" }),
        json!({ "memoryBytes": i64::MAX.to_string() }),
        json!({ "diskBytes": i64::MAX.to_string() }),
        json!({ "traffic": { "requestCount": "-1" } }),
        json!({ "traffic": { "sentBytes": i64::MAX.to_string() } }),
        json!({ "traffic": { "durationS": "NaN" } }),
        json!({ "traffic": { "durationS": 1e300 } }),
    ] {
        let answer = scene.report(bad.clone()).await;
        let field = bad.as_object().unwrap().keys().next().unwrap().clone();
        let reason = text(&answer["rejectedReports"][0]["reason"]);
        let expected =
            if field == "cpuCores" { "cpu_cores" } else { &field.replace("Bytes", "_bytes") };
        assert!(reason.contains(expected), "{bad}: {answer}");
    }
    // The largest values fit into the sums.
    let largest = (1i64 << 50).to_string();
    let traffic = json!({ "requestCount": largest, "durationS": 1e12 });
    for number in 0..6 {
        let traffic = if number % 2 == 0 { json!({}) } else { traffic.clone() };
        let report = json!({ "cpuCores": 1e6, "memoryBytes": largest, "traffic": traffic });
        scene.report(report).await;
    }
    scene.advance_to(Duration::seconds(65));
    scene.sample(0.0, 0).await;
    assert_eq!(scene.points(json!({})).await, [point(0, (1e6, 1e6), (1 << 50, 1 << 50))]);
    assert_eq!(scene.suite.count("select count(*) from project.metric_minute").await, 1);

    // The metrics of an environment end with it.
    hosting.start_task("Destroy", &scene.environment, json!({ "confirmName": "main" })).await;
    scene.runner.finish_task(&scene.runner.lease_task().await, json!({})).await.unwrap();
    let stored = "select (select count(*) from project.metric_minute)
                       + (select count(*) from project.metric_hour)";
    assert_eq!(scene.suite.count(stored).await, 0);
    scene.suite.finish().await;
}

/// An invalid time range is refused with every violation; the permission is that of the health.
#[tokio::test(flavor = "multi_thread")]
async fn time_ranges_are_checked() {
    let scene = Scene::new().await;
    let day = |days: i64| scene.time(Duration::days(days));
    for (range, expected) in [
        (json!({ "step": "59s" }), &["step must be from a minute to a day"][..]),
        (json!({ "step": "5400s" }), &["step must be"]),
        (json!({ "step": "60s", "startTime": day(-2) }), &["step must be at least an hour"]),
        (
            json!({ "step": "60s", "startTime": day(0), "endTime": day(2) }),
            &["2880 points", "more than 1500"],
        ),
        (json!({ "startTime": day(-92) }), &["start_time must be within the last 90 days"]),
        (
            json!({ "startTime": day(-92), "endTime": day(-93), "step": "1s" }),
            &["start_time must be", "end_time must be after start_time", "step must be"],
        ),
    ] {
        let refusal = scene.curve(range.clone()).await.unwrap_err();
        assert_eq!(refusal.reason, "INVALID_FIELD", "{range}");
        let message = refusal.to_string();
        assert!(expected.iter().all(|it| message.contains(it)), "{range}: {message}");
    }
    let ninety_days = scene.curve(json!({ "startTime": day(-90) })).await.unwrap();
    assert_eq!(ninety_days["step"], "86400s");
    let hosting = &scene.runner.hosting;
    let method = format!("{ENVIRONMENTS}/GetMetrics");
    let request = hosting.request(&scene.environment, json!({}));
    let viewer = json!({ "userId": hosting.world.viewer.user_id });
    hosting.world.grant(viewer, "VIEWER").await;
    hosting.world.viewer.call_ok(&method, request.clone()).await;
    let stranger = scene.suite.person("eve@example.com").await;
    assert_eq!(stranger.call_err(&method, request).await, "NOT_FOUND");
    let unknown = hosting.request(&chassis::id::new().to_string(), json!({}));
    assert_eq!(hosting.owner().call_err(&method, unknown).await, "NOT_FOUND");
    scene.suite.finish().await;
}

/// Number of pages with the metrics of the most scattered environment.
const PAGES: &str = "select max(pages) from (
    select count(distinct (tableoid, (ctid::text::point)[0])) as pages
    from project.metric_minute group by environment_id) as it";

/// The retention job stores the minutes of an hour by environment, and changes none of them.
#[tokio::test(flavor = "multi_thread")]
async fn minutes_of_an_hour_are_stored_by_environment() {
    let scene = Scene::new().await;
    scene.advance_to(Duration::hours(1) + Duration::minutes(5));
    let insert = "insert into project.metric_minute
        select md5(number::text)::uuid, project.lowest_id($1::timestamptz + make_interval(mins => minute)),
            minute, 1, 1, 1, 1, 1
        from generate_series(0, 59) as minute, generate_series(1, 100) as number order by minute, number";
    let suite = scene.suite;
    sqlx::query(insert).bind(scene.hour).execute(&suite.pool).await.unwrap();
    let contents = "select sum(('x' || left(md5(it::text), 8))::bit(32)::bigint)::bigint
                    from project.metric_minute as it";
    let (before, pages) = (suite.count(contents).await, suite.count(PAGES).await);
    assert!(pages > 30, "{pages} pages");
    let suite = suite.restart(async |_| {}).await;
    eventually("sorted metrics", async || (suite.count(PAGES).await <= 5).then_some(())).await;
    assert_eq!(suite.count(contents).await, before);
    assert_eq!(suite.count("select count(*) from project.metric_minute").await, 6_000);
    suite.finish().await;
}
