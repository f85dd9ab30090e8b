//! Commands: streams between callers and the runner of a server, which the test plays.

use api::project as pb;
use serde_json::{Value, json};
use testkit::{Suite, eventually};
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    audit_client::AuditClient,
    command_session::{CommandSession, command, input},
    fake_runner::{FakeRunner, success_result},
    hosting::{RUNNER, SERVERS},
    raw,
    world::{merge, text},
};

/// A server whose runner is the test, an environment that runs on it, and a connection for callers.
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
        runner.hosting.start_task("Deploy", &environment, json!({})).await;
        let lease = runner.lease_task().await;
        runner.finish_task(&lease, success_result()).await.unwrap();
        let channel = raw::connect(suite.address).await;
        Self { suite, runner, environment, channel }
    }

    fn command(&self, arguments: &[&str]) -> pb::RunCommandRequest {
        command(&self.runner.hosting.world, &self.environment, arguments)
    }

    async fn start(&self, first: pb::RunCommandRequest) -> Result<CommandSession, Status> {
        CommandSession::start(&self.channel, self.runner.hosting.owner(), first).await
    }

    /// Starts a command; returns its session with the lease of the runner.
    async fn open(&self, first: pb::RunCommandRequest) -> (CommandSession, Value) {
        let lease = self.runner.call("LeaseStream", json!({ "wait": "20s" }));
        let (session, lease) = tokio::join!(self.start(first), lease);
        (session.unwrap(), lease.unwrap()["lease"].clone())
    }

    /// Sends a part; returns the state without its prefix.
    async fn send(&self, lease: &Value, number: i64, more: Value) -> String {
        let part = merge(json!({ "number": number.to_string() }), more);
        let request = json!({ "streamId": lease["streamId"], "part": part });
        let answer = self.runner.call("SendStreamData", request).await.unwrap();
        text(&answer["state"]).trim_start_matches("STREAM_STATE_").to_owned()
    }

    /// Receives the messages to a command.
    async fn receive(&self, lease: &Value, next_number: i64) -> Value {
        let request =
            json!({ "streamId": lease["streamId"], "nextNumber": next_number.to_string() });
        self.runner.call("ReceiveStreamInput", request).await.unwrap()["inputs"].clone()
    }

    /// Starts a command, and ends it with this last part; returns the error of the caller.
    async fn error_of(&self, last: Value) -> Status {
        let (mut session, lease) = self.open(self.command(&["true"])).await;
        let part = merge(json!({ "last": true }), last);
        let (sent, error) = tokio::join!(self.send(&lease, 0, part), session.wait());
        assert_eq!(sent, "OPEN");
        error.unwrap_err()
    }
}

/// A runner receives the command and the input in its order, again until it confirms it; the caller receives
/// the output and the exit status; the runner learns that the caller is gone.
#[tokio::test(flavor = "multi_thread")]
async fn messages_are_forwarded_in_both_directions() {
    let scene = Scene::new().await;
    let size = pb::TerminalSize { columns: 80, rows: 24 };
    let first = pb::RunCommandRequest {
        terminal_size: Some(size),
        input: b"first".to_vec(),
        ..scene.command(&["sh", "-c", "x"])
    };
    let (mut session, lease) = scene.open(first).await;
    assert_eq!(lease["environmentId"], scene.environment);
    assert_eq!(lease["command"]["arguments"], json!(["sh", "-c", "x"]));
    assert_eq!(lease["command"]["terminalSize"], json!({ "columns": 80, "rows": 24 }));
    let received = scene.receive(&lease, 0).await;
    let message = json!({ "input": "Zmlyc3Q=" });
    assert_eq!(received, json!({ "messages": [message], "state": "STREAM_STATE_OPEN" }));
    assert_eq!(scene.receive(&lease, 0).await, received, "not confirmed");
    let (next, ()) = tokio::join!(scene.receive(&lease, 1), session.send(input("second")));
    assert_eq!(next["messages"], json!([{ "number": "1", "input": "c2Vjb25k" }]));
    session.requests = None;
    let end = scene.receive(&lease, 2).await;
    assert_eq!(end["messages"], json!([{ "number": "2", "endOfInput": true }]));
    let send = async {
        for (number, part) in [
            (0, json!({})),
            (1, json!({ "output": "AP8=", "errorOutput": "ZQ==" })),
            (1, json!({ "output": "AP8=", "errorOutput": "ZQ==" })),
            (2, json!({ "exit": { "status": 3 }, "last": true })),
        ] {
            assert_eq!(scene.send(&lease, number, part).await, "OPEN", "{number}");
        }
    };
    let ((), status) = tokio::join!(send, session.wait());
    assert_eq!(status.unwrap(), 3);
    assert_eq!((&*session.output, &*session.errors), (&[0, 255][..], &b"e"[..]));

    let (session, lease) = scene.open(scene.command(&["true"])).await;
    drop(session);
    // The end of its messages may arrive before.
    eventually("the end of the input", async || {
        let received = scene.receive(&lease, 0).await;
        (received == json!({ "state": "STREAM_STATE_CLOSED" })).then_some(())
    })
    .await;
    eventually("the end of the stream", async || {
        (scene.send(&lease, 0, json!({})).await == "CLOSED").then_some(())
    })
    .await;
    scene.suite.finish().await;
}

/// Refusals of a runner have a reason, and are in the log as sessions that failed.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_a_runner_have_a_reason() {
    let scene = Scene::new().await;
    for (refusal, code, reason) in [
        ("LIMIT", Code::ResourceExhausted, "COMMAND_LIMIT_REACHED"),
        ("NOT_RUNNING", Code::FailedPrecondition, "INVALID_STATE"),
        ("UNSUPPORTED", Code::FailedPrecondition, "COMMAND_NOT_RUN"),
    ] {
        let refusal = json!({ "refusal": format!("COMMAND_REFUSAL_{refusal}") });
        let refused = scene.error_of(refusal).await;
        assert_eq!((refused.code(), raw::reason(&refused).as_str()), (code, reason));
    }
    let failed = scene.error_of(json!({ "errorMessage": "no disk\u{1b}[31m" })).await;
    assert_eq!(failed.message(), "the runner of the server failed: no disk");
    let unreachable = scene.start(scene.command(&["true"])).await.err().unwrap();
    assert_eq!(
        (unreachable.code(), raw::reason(&unreachable).as_str()),
        (Code::Unavailable, "SERVER_UNREACHABLE")
    );
    let world = &scene.runner.hosting.world;
    let log = AuditClient::new(&scene.suite, &world.owner, &world.org).await;
    eventually("the ends of the sessions", async || {
        scene.suite.wait_for_log().await;
        let ended = log.entries(json!({ "action": "environment.command_ended" })).await;
        let end = |it: &Value| it["envelope"]["event"]["session"]["end"].clone();
        (ended.len() == 5 && ended.iter().all(|it| end(it) == "COMMAND_END_FAILED")).then_some(())
    })
    .await;
    scene.suite.finish().await;
}

/// Invalid messages end a call; the first one must name the environment.
#[tokio::test(flavor = "multi_thread")]
async fn invalid_messages_are_refused() {
    let scene = Scene::new().await;
    let many = vec!["x"; 65];
    let with_nul = scene.command(&["a\0b"]);
    let without_id =
        pb::RunCommandRequest { environment_id: String::new(), ..scene.command(&["true"]) };
    for first in [scene.command(&many), with_nul, without_id] {
        let refused = scene.start(first).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    let (mut session, _) = scene.open(scene.command(&["cat"])).await;
    session.send(input(vec![0; (32 << 10) + 1])).await;
    let refused = session.wait().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    scene.suite.finish().await;
}

/// A runner cannot receive the input of commands on another server.
#[tokio::test(flavor = "multi_thread")]
async fn input_for_other_servers_cannot_be_received() {
    let scene = Scene::new().await;
    let world = &scene.runner.hosting.world;
    let connect = world.org_request(json!({
        "name": "eu-2", "address": "eu-2.example.com",
        "capacity": { "cpuCores": 2, "memoryMb": 4096, "diskGb": 40 },
    }));
    let connected = world.owner.call_ok(&format!("{SERVERS}/ConnectServer"), connect).await;
    let foreign = scene.suite.client.with_token(&text(&connected["agentToken"]));
    let first = pb::RunCommandRequest { input: b"x".to_vec(), ..scene.command(&["cat"]) };
    let (_session, lease) = scene.open(first).await;
    let request = json!({ "runner": "eu-2", "streamId": lease["streamId"] });
    let received =
        foreign.call_json(&format!("{RUNNER}/ReceiveStreamInput"), request).await.unwrap();
    assert_eq!(received["inputs"], json!({ "state": "STREAM_STATE_CLOSED" }));
    assert!(scene.receive(&lease, 0).await["messages"].is_array());
    scene.suite.finish().await;
}
