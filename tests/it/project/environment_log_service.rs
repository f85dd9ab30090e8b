//! Logs of programs: streams from the runner of a server to readers, with a runner that the test plays.

use std::time::Duration;

use api::project::{self as pb, environment_log_service_client::EnvironmentLogServiceClient};
use data_encoding::BASE64;
use futures::StreamExt;
use serde_json::{Value, json};
use testkit::{Suite, eventually};
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::support::{
    audit_client::as_person,
    fake_runner::FakeRunner,
    hosting::{RUNNER, SERVERS},
    raw,
    world::{merge, text},
};

type Messages = Streaming<pb::ReadLogsResponse>;

/// A server whose runner is the test, an environment on it, and a connection for readers.
struct Scene {
    suite: Suite,
    runner: FakeRunner,
    environment: String,
    channel: Channel,
}

impl Scene {
    async fn new() -> Self {
        let suite = Suite::start().await;
        let runner = FakeRunner::new(&suite).await;
        runner.heartbeat().await;
        let environment = runner.environment("main").await;
        let channel = raw::connect(suite.address).await;
        Self { suite, runner, environment, channel }
    }

    /// Calls `ReadLogs` as the owner.
    async fn read(&self, query: pb::LogQuery) -> Result<Messages, Status> {
        let world = &self.runner.hosting.world;
        let request = pb::ReadLogsRequest {
            org_id: world.org.clone(),
            project_id: world.project.clone(),
            environment_id: self.environment.clone(),
            query: Some(query),
        };
        let mut client = EnvironmentLogServiceClient::new(self.channel.clone());
        Ok(client.read_logs(as_person(&world.owner, request)).await?.into_inner())
    }

    /// Opens a stream; returns it with the lease of the runner.
    async fn open(&self, query: pb::LogQuery) -> (Messages, Value) {
        let (opened, lease) = tokio::join!(self.read(query), self.lease());
        (opened.unwrap(), lease)
    }

    async fn lease(&self) -> Value {
        let leased = self.runner.call("LeaseStream", json!({ "wait": "20s" })).await.unwrap();
        leased["lease"].clone()
    }

    /// Sends a part; returns the state without its prefix.
    async fn send(&self, lease: &Value, number: i64, more: Value) -> String {
        let part = merge(json!({ "number": number.to_string() }), more);
        let request = json!({ "streamId": lease["streamId"], "part": part });
        let answer = self.runner.call("SendStreamData", request).await.unwrap();
        text(&answer["state"]).trim_start_matches("STREAM_STATE_").to_owned()
    }
}

fn lines(texts: &[&str]) -> Value {
    let times = vec!["1795847880000000000"; texts.len()];
    let text: String = texts.iter().map(|it| format!("{it}\n")).collect();
    json!({ "log": { "timesNs": times, "text": BASE64.encode(text.as_bytes()) } })
}

fn texts(response: pb::ReadLogsResponse) -> Vec<String> {
    response.lines.into_iter().map(|it| it.text).collect()
}

/// A reader gets each part once, in their order, without terminal escapes; the runner learns when it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_gets_each_part_once() {
    let scene = Scene::new().await;
    let query = pb::LogQuery { tail_lines: 7, contains: "x".to_owned(), ..Default::default() };
    let (mut messages, lease) = scene.open(query).await;
    assert_eq!(lease["environmentId"], scene.environment);
    assert_eq!((&lease["log"]["tailLines"], &lease["log"]["contains"]), (&json!(7), &json!("x")));
    let send = async {
        for (number, part) in [
            (0, json!({})),
            (1, lines(&["one", "\u{1b}[31mtwo\u{1b}[0m"])),
            (1, lines(&["one", "\u{1b}[31mtwo\u{1b}[0m"])),
            (2, merge(lines(&["three"]), json!({ "last": true }))),
        ] {
            assert_eq!(scene.send(&lease, number, part).await, "OPEN", "{number}");
        }
    };
    let receive = async {
        let mut received = vec![];
        while let Some(message) = messages.next().await {
            received.push(texts(message.unwrap()));
        }
        received
    };
    let ((), received) = tokio::join!(send, receive);
    assert_eq!(received, [vec!["one", "two"], vec!["three"]]);
    drop(messages);
    eventually("the end of the stream", async || {
        (scene.send(&lease, 3, json!({})).await == "CLOSED").then_some(())
    })
    .await;
    scene.suite.finish().await;
}

/// A lost part, and an error of the runner, end the stream with an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_a_gap_ends() {
    let scene = Scene::new().await;
    let error = async |number: i64, part: Value| {
        let (mut messages, lease) = scene.open(pb::LogQuery::default()).await;
        let (sent, received) = tokio::join!(scene.send(&lease, number, part), messages.next());
        assert_eq!(sent, "OPEN");
        received.unwrap().unwrap_err()
    };
    let gap = error(1, lines(&["two"])).await;
    assert_eq!((gap.code(), raw::reason(&gap).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    let failed = error(0, json!({ "errorMessage": "no disk\u{1b}[31m" })).await;
    assert_eq!(failed.message(), "the runner of the server failed: no disk");
    scene.suite.finish().await;
}

/// A runner cannot send to the readers of another server, and takes none of their streams.
#[tokio::test(flavor = "multi_thread")]
async fn streams_of_other_servers_cannot_be_reached() {
    let scene = Scene::new().await;
    let world = &scene.runner.hosting.world;
    let connect = world.org_request(json!({
        "name": "eu-2", "address": "eu-2.example.com",
        "capacity": { "cpuCores": 2, "memoryMb": 4096, "diskGb": 40 },
    }));
    let connected = world.owner.call_ok(&format!("{SERVERS}/ConnectServer"), connect).await;
    let foreign = scene.suite.client.with_token(&text(&connected["agentToken"]));
    let call = async |method: &str, request: Value| {
        let request = merge(json!({ "runner": "eu-2" }), request);
        foreign.call_json(&format!("{RUNNER}/{method}"), request).await.unwrap()
    };
    let (foreign_lease, (mut messages, lease)) = tokio::join!(
        call("LeaseStream", json!({ "wait": "2s" })),
        scene.open(pb::LogQuery::default()),
    );
    assert_eq!(foreign_lease, json!({}));
    let part = merge(lines(&["forged"]), json!({ "number": "0" }));
    let forged = json!({ "streamId": lease["streamId"], "part": part });
    assert_eq!(call("SendStreamData", forged).await["state"], "STREAM_STATE_CLOSED");
    let (sent, received) = tokio::join!(scene.send(&lease, 0, lines(&["true"])), messages.next());
    assert_eq!(
        (sent.as_str(), texts(received.unwrap().unwrap())),
        ("OPEN", vec!["true".to_owned()])
    );
    scene.suite.finish().await;
}

/// Without a runner a call fails with a reason; queries that can have no lines are refused; an environment
/// that was never on a server has no output.
#[tokio::test(flavor = "multi_thread")]
async fn queries_without_an_answer_fail_with_a_reason() {
    let scene = Scene::new().await;
    let refused = scene.read(pb::LogQuery::default()).await.err().unwrap();
    assert_eq!(
        (refused.code(), raw::reason(&refused).as_str()),
        (Code::Unavailable, "SERVER_UNREACHABLE")
    );
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let both = pb::LogQuery { end_time: time(1), follow: true, ..Default::default() };
    let empty = pb::LogQuery { start_time: time(2), end_time: time(2), ..Default::default() };
    let many = pb::LogQuery { tail_lines: -1, ..Default::default() };
    for query in [both, empty, many] {
        let refused = scene.read(query).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{}", refused.message());
    }
    let hosting = &scene.runner.hosting;
    let unplaced = hosting.create_environment(json!({ "name": "unplaced" })).await;
    let scene = Scene { environment: unplaced, ..scene };
    let mut messages = scene.read(pb::LogQuery::default()).await.unwrap();
    assert!(messages.next().await.is_none());
    scene.suite.finish().await;
}

/// A slow reader slows the runner down, and loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_loses_nothing() {
    let scene = Scene::new().await;
    let (mut messages, lease) = scene.open(pb::LogQuery::default()).await;
    let long = "x".repeat(4_000);
    let texts_of_part = vec![long.as_str(); 50];
    let mut number = 0;
    let mut has_waited = false;
    while !has_waited {
        assert!(number < 500, "100 MB without a reader");
        let part = scene.send(&lease, number, lines(&texts_of_part));
        match tokio::time::timeout(Duration::from_secs(2), part).await {
            Ok(state) if state == "OPEN" => number += 1,
            _ => has_waited = true,
        }
    }
    let receive = async {
        let mut count = 0;
        while let Some(message) = messages.next().await {
            count += message.unwrap().lines.len();
        }
        count
    };
    let send = async {
        while scene.send(&lease, number, lines(&texts_of_part)).await != "OPEN" {}
        scene.send(&lease, number + 1, json!({ "last": true })).await
    };
    let (count, state) = tokio::join!(receive, send);
    assert_eq!((count, state.as_str()), (usize::try_from(number + 1).unwrap() * 50, "OPEN"));
    scene.suite.finish().await;
}
