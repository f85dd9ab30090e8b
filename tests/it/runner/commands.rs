//! Commands beside the program of an environment, in the sandboxes of a real runner.

use api::project as pb;
use serde_json::json;
use testkit::{Suite, eventually};
use tonic::{Code, transport::Channel};

use super::logs::deploy_to;
use crate::support::{
    audit_client::AuditClient,
    command_session::{CommandSession, command, input, run},
    hosting::Hosting,
    raw,
    service_processes::ServiceProcesses,
    world::text,
};

/// A deployed environment, and a connection for callers.
struct Scene {
    suite: Suite,
    hosting: Hosting,
    environment: String,
    channel: Channel,
}

impl Scene {
    /// `None` if this process is not root: then runners refuse commands.
    async fn new(kind: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let suite = Suite::start().await;
        let hosting = Hosting::new(&suite).await;
        let environment = hosting.environment("main", kind).await;
        let task = hosting.run_task("Deploy", &environment, json!({})).await;
        assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
        let channel = raw::connect(suite.address).await;
        Some(Self { suite, hosting, environment, channel })
    }

    fn command(&self, arguments: &[&str]) -> pb::RunCommandRequest {
        command(&self.hosting.world, &self.environment, arguments)
    }

    fn in_terminal(&self, arguments: &[&str]) -> pb::RunCommandRequest {
        let size = pb::TerminalSize { columns: 91, rows: 17 };
        pb::RunCommandRequest { terminal_size: Some(size), ..self.command(arguments) }
    }

    async fn run(&self, arguments: &[&str]) -> (String, i32) {
        run(&self.channel, self.hosting.owner(), self.command(arguments)).await
    }

    async fn start(&self, first: pb::RunCommandRequest) -> CommandSession {
        CommandSession::start(&self.channel, self.hosting.owner(), first).await.unwrap()
    }
}

/// Returns true if `sleep` runs with this argument. Processes that start it have it as an argument, too.
fn is_running(argument: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|it| std::fs::read(it.path().join("cmdline")).ok());
    let expected = format!("sleep\0{argument}\0");
    lines.any(|it| it == expected.as_bytes())
}

async fn wait_for_end(argument: &str) {
    eventually("the end of the processes", async || (!is_running(argument)).then_some(())).await;
}

/// A command sees the program, has its files, variables and account, and no more rights; the log has its
/// person and its duration.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_where_the_program_runs() {
    let Some(scene) = Scene::new("DEVELOPMENT").await else { return };
    let (output, status) = scene.run(&["sh", "-c", "echo out; echo err >&2; exit 7"]).await;
    assert_eq!((output.as_str(), status), ("out\nerr\n", 7));
    let (output, status) = scene.run(&["no-such-program"]).await;
    assert_eq!(status, 127, "{output}");
    let (output, status) = scene.run(&["sh", "-c", "kill -KILL $$"]).await;
    assert_eq!((output.as_str(), status), ("", 128 + 9));
    let script = "pwd; echo $DATA_DIR; id -u; ps -e -o args=; cat /proc/self/status";
    let (output, status) = scene.run(&["sh", "-c", script]).await;
    assert_eq!(status, 0, "{output}");
    assert!(output.starts_with("/app\n/data\n"), "{output}");
    assert!(output.contains("\nperl server.pl\n"), "{output}");
    assert_ne!(output.lines().nth(2), Some("0"), "{output}");
    for line in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(output.contains(line), "{output}");
    }
    let outside = scene.suite.data_dir();
    let script = format!("ls {}; ls /proc/*/root/root; touch /usr/x; true", outside.display());
    let (output, _) = scene.run(&["sh", "-c", &script]).await;
    assert!(output.contains("No such file") && output.contains("Read-only"), "{output}");
    let world = &scene.hosting.world;
    let log = AuditClient::new(&scene.suite, &world.owner, &world.org).await;
    scene.suite.wait_for_log().await;
    let started = log.entries(json!({ "action": "environment.command_started" })).await;
    let event = &started.last().unwrap()["envelope"];
    let session = &event["event"]["session"];
    assert_eq!(session["command"], "sh -c 'echo out; echo err >&2; exit 7'", "{event}");
    assert_eq!(event["actor"]["id"], world.owner.user_id, "{event}");
    let ended = log.entries(json!({ "action": "environment.command_ended" })).await;
    assert_eq!(ended.len(), started.len());
    let exit = |it: &serde_json::Value| {
        let session = &it["envelope"]["event"]["session"];
        (session["end"].clone(), session["exit"]["status"].clone(), session["id"].clone())
    };
    let expected = (json!("COMMAND_END_EXITED"), json!(7), session["id"].clone());
    assert!(ended.iter().any(|it| exit(it) == expected), "{ended:?}");
    scene.suite.finish().await;
}

/// Bytes that are no text, and 10 MB of them, arrive unchanged in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_arrive_unchanged() {
    let Some(scene) = Scene::new("DEVELOPMENT").await else { return };
    let mut session = scene.start(scene.command(&["cat"])).await;
    let bytes: Vec<u8> = (0..320_u32 << 10).map(|it| u8::try_from(it % 251).unwrap()).collect();
    for part in bytes.chunks(32 << 10) {
        session.send(input(part)).await;
    }
    session.requests = None;
    assert_eq!(session.wait().await.unwrap(), 0);
    assert!(session.output == bytes, "{} bytes", session.output.len());
    let script = "head -c 10000000 /dev/zero | tr '\\0' '\\377'; echo end";
    let mut session = scene.start(scene.command(&["sh", "-c", script])).await;
    assert_eq!(session.wait().await.unwrap(), 0);
    assert_eq!(session.output.len(), 10_000_004);
    assert!(session.output[..10_000_000].iter().all(|it| *it == 255));
    scene.suite.finish().await;
}

/// A terminal has its size, also after a change; Ctrl-C interrupts the foreground process of a shell.
#[tokio::test(flavor = "multi_thread")]
async fn a_shell_has_a_terminal() {
    let Some(scene) = Scene::new("DEVELOPMENT").await else { return };
    let mut shell = scene.start(scene.in_terminal(&[])).await;
    shell.send(input("stty size\n")).await;
    shell.wait_for("17 91").await;
    let size = Some(pb::TerminalSize { columns: 100, rows: 30 });
    shell.send(pb::RunCommandRequest { terminal_size: size, ..input("stty size\n") }).await;
    shell.wait_for("30 100").await;
    shell.send(input("top -b -n 1 | grep perl\n")).await;
    shell.wait_for("perl\r\n").await;
    shell.send(input("echo begin-$((40+2)); sleep 98765; echo after-$?\n")).await;
    shell.wait_for("begin-42").await;
    eventually("a sleep", async || is_running("98765").then_some(())).await;
    shell.send(input("\u{3}echo next-$((1+1))\n")).await;
    shell.wait_for("next-2").await;
    assert!(!is_running("98765"));
    shell.send(input("exit 5\n")).await;
    assert_eq!(shell.wait().await.unwrap(), 5);
    let mut sleep = scene.start(scene.command(&["sleep", "98764"])).await;
    let signal = pb::CommandSignal::Terminate.into();
    eventually("a sleep", async || is_running("98764").then_some(())).await;
    sleep.send(pb::RunCommandRequest { signal, ..Default::default() }).await;
    assert_eq!(sleep.wait().await.unwrap(), 128 + 15);
    scene.suite.finish().await;
}

/// No process is left of a session whose command has ended, whose caller is gone, whose caller has lost the
/// right, or whose program is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_leaves_no_processes() {
    let Some(scene) = Scene::new("DEVELOPMENT").await else { return };
    let (_, status) = scene.run(&["sh", "-c", "setsid sleep 98701 >/dev/null 2>&1 & exit 0"]).await;
    assert_eq!(status, 0);
    wait_for_end("98701").await;
    let script = |argument: &str| format!("setsid sleep {argument} & sleep {argument}");
    let start = async |argument: &str| {
        let session = scene.start(scene.in_terminal(&["sh", "-c", &script(argument)])).await;
        eventually("a sleep", async || is_running(argument).then_some(())).await;
        session
    };
    drop(start("98702").await);
    wait_for_end("98702").await;

    let world = &scene.hosting.world;
    let developer = &world.admin;
    world.grant(json!({ "userId": developer.user_id }), "DEVELOPER").await;
    let first = scene.in_terminal(&["sh", "-c", &script("98703")]);
    let mut session = CommandSession::start(&scene.channel, developer, first).await.unwrap();
    eventually("a sleep", async || is_running("98703").then_some(())).await;
    world.grant(json!({ "userId": developer.user_id }), "VIEWER").await;
    let ended = session.wait().await.unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended:?}");
    wait_for_end("98703").await;

    let mut session = start("98704").await;
    let task = scene.hosting.run_task("Stop", &scene.environment, json!({})).await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    assert!(!is_running("98704"));
    assert_eq!(session.wait().await.unwrap(), 128 + 9);
    let refused = scene.command(&["true"]);
    let refused = CommandSession::start(&scene.channel, scene.hosting.owner(), refused).await;
    let refused = refused.err().unwrap();
    assert_eq!(
        (refused.code(), raw::reason(&refused).as_str()),
        (Code::FailedPrecondition, "INVALID_STATE")
    );

    let log = AuditClient::new(&scene.suite, &world.owner, &world.org).await;
    eventually("the ends of all sessions", async || {
        scene.suite.wait_for_log().await;
        let ended = log.entries(json!({ "action": "environment.command_ended" })).await;
        let causes: Vec<_> = ended
            .iter()
            .rev()
            .map(|it| it["envelope"]["event"]["session"]["end"].as_str().unwrap().to_owned())
            .collect();
        let expected = ["EXITED", "CALLER_GONE", "PERMISSION_LOST", "EXITED"];
        (causes == expected.map(|it| format!("COMMAND_END_{it}"))).then_some(())
    })
    .await;
    scene.suite.finish().await;
}

/// Commands need the right to operate, in PRODUCTION that to deploy there; a ninth session is refused.
#[tokio::test(flavor = "multi_thread")]
async fn commands_in_production_need_the_right_to_deploy() {
    let Some(scene) = Scene::new("PRODUCTION").await else { return };
    let world = &scene.hosting.world;
    let person = &world.admin;
    for (role, min_role, is_allowed) in [
        ("VIEWER", "DEVELOPER", false),
        ("DEVELOPER", "DEVELOPER", true),
        ("DEVELOPER", "ADMIN", false),
        ("ADMIN", "ADMIN", true),
    ] {
        world.grant(json!({ "userId": person.user_id }), role).await;
        let update = world.project_request(json!({
            "productionDeployMinRole": format!("DEPLOY_ROLE_{min_role}"),
            "updateMask": "productionDeployMinRole",
        }));
        world.owner.call_ok("project.v1.ProjectService/UpdateProject", update).await;
        let first = scene.command(&["true"]);
        let started = CommandSession::start(&scene.channel, person, first).await;
        match started {
            Ok(mut session) => {
                assert!(is_allowed, "{role} {min_role}");
                assert_eq!(session.wait().await.unwrap(), 0);
            }
            Err(refused) => {
                assert!(!is_allowed, "{role} {min_role}: {refused:?}");
                assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
            }
        }
    }
    let mut sessions = vec![];
    for _ in 0..8 {
        let mut session = scene.start(scene.command(&["cat"])).await;
        session.send(input("x")).await;
        session.wait_for("x").await;
        sessions.push(session);
    }
    let mut ninth = scene.start(scene.command(&["cat"])).await;
    let refused = ninth.wait().await.unwrap_err();
    assert_eq!(
        (refused.code(), raw::reason(&refused).as_str()),
        (Code::ResourceExhausted, "COMMAND_LIMIT_REACHED")
    );
    scene.suite.finish().await;
}

/// Runner and callers may call different replicas, which forward input and output through NATS.
#[tokio::test(flavor = "multi_thread")]
async fn each_replica_runs_commands() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let processes = ServiceProcesses::start_with_replica_of(Some("project")).await;
    let runner = processes.start_runner();
    let (owner, environment) = deploy_to(&processes).await;
    for url in processes.urls_of("project") {
        let channel = processes.channel(&url).await;
        let first = pb::RunCommandRequest {
            org_id: text(&environment["orgId"]),
            project_id: text(&environment["projectId"]),
            environment_id: text(&environment["environmentId"]),
            arguments: vec!["cat".to_owned()],
            ..Default::default()
        };
        // The runner waits at one of the replicas at a time, so several calls meet both cases.
        for _ in 0..4 {
            let started = CommandSession::start(&channel, &owner, first.clone()).await;
            let logs = || processes.logs();
            let mut session = started.unwrap_or_else(|it| panic!("{it}\n{}", logs()));
            session.send(input("through the replicas")).await;
            session.wait_for("through the replicas").await;
            session.requests = None;
            assert_eq!(session.wait().await.unwrap(), 0);
        }
    }
    assert!(runner.stop(), "the runner drains");
    processes.stop().await;
}
