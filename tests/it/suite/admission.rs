//! Limits before a call is admitted: connections, unfinished requests and waiting calls of one client do not
//! block others.

use std::net::SocketAddr;

use api::project as prj;
use prost::Message;
use serde_json::json;
use testkit::{Database, Options, Process, ReservedPort, Suite, TIMEOUT, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    hosting::SERVERS,
    raw,
    world::{World, text},
};

const LOGIN: &str = "tenantry.identity.v1.SessionService/Login";
const HEALTH: &str = "grpc.health.v1.Health/Check";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// Number of unfinished requests per connection; the server allows 256.
const STREAMS: usize = 250;

/// Open requests whose bodies never end.
struct Unfinished {
    channels: Vec<Channel>,
    calls: JoinSet<Result<bytes::Bytes, Status>>,
}

impl Unfinished {
    /// Opens `count` requests over new connections.
    async fn open(address: SocketAddr, count: usize) -> Self {
        let mut unfinished = Self { channels: vec![], calls: JoinSet::new() };
        for opened in 0..count {
            if opened % STREAMS == 0 {
                unfinished.channels.push(raw::connect(address).await);
            }
            let channel = unfinished.channels.last().unwrap().clone();
            unfinished
                .calls
                .spawn(async move { raw::call_with_unfinished_body(&channel, LOGIN, None).await });
        }
        // The response to a last request per connection shows that the others have arrived.
        for channel in &unfinished.channels {
            let _ = raw::call(channel, "tenantry.identity.v1.UserService/Nope", None, vec![]).await;
        }
        unfinished
    }
}

/// 512 unfinished requests take no permit: other calls, health checks and reflection are answered.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_requests_do_not_block_other_calls() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let unfinished = Unfinished::open(suite.address, 512).await;
    for _ in 0..20 {
        ann.call_ok("identity.v1.UserService/GetMe", json!({})).await;
    }
    let channel = raw::connect(suite.address).await;
    // An encoded HealthCheckResponse with the status SERVING.
    assert_eq!(raw::call(&channel, HEALTH, None, vec![]).await.unwrap().as_ref(), [8, 1]);
    // An encoded ServerReflectionRequest with `list_services: "*"`.
    let listed = raw::first_message(&channel, REFLECTION, vec![0x3a, 1, b'*']).await.unwrap();
    assert!(String::from_utf8_lossy(&listed).contains("tenantry.identity.v1.SessionService"));
    drop(unfinished);
    suite.finish().await;
}

/// A request whose body does not arrive before its deadline fails with DEADLINE_EXCEEDED.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_must_arrive_within_the_deadline() {
    let suite = Suite::start().await;
    let channel = raw::connect(suite.address).await;
    let deadline = Some(std::time::Duration::from_millis(200));
    let late = raw::call_with_unfinished_body(&channel, LOGIN, deadline).await.unwrap_err();
    assert_eq!(
        (late.code(), raw::reason(&late).as_str()),
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
    );
    suite.finish().await;
}

/// Long polls of runners use a budget of their own and do not block other calls.
#[tokio::test(flavor = "multi_thread")]
async fn long_polls_of_runners_do_not_block_other_calls() {
    let suite = Suite::start_with(Options { in_flight_max: 8, ..Options::default() }).await;
    let world = World::new(&suite).await;
    let connect = world.org_request(json!({ "name": "eu-1", "address": "a.example.com" }));
    let connected = world.owner.call_ok(&format!("{SERVERS}/ConnectServer"), connect).await;
    let token = text(&connected["agentToken"]);
    let lease = prj::LeaseTaskRequest {
        runner: "eu-1".to_owned(),
        wait: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
    };
    let mut waiting = JoinSet::new();
    for _ in 0..8 {
        let channel = raw::connect(suite.address).await;
        let token = token.clone();
        let body = lease.encode_to_vec();
        waiting.spawn(async move {
            raw::call(&channel, "tenantry.project.v1.RunnerService/LeaseTask", Some(&token), body)
                .await
        });
    }
    for _ in 0..50 {
        world.owner.call_ok("identity.v1.UserService/GetMe", json!({})).await;
    }
    assert!(waiting.try_join_next().is_none(), "a long poll has ended");
    drop(waiting);
    suite.finish().await;
}

/// Sends bytes over a new connection and waits until the server closes it; returns the response.
async fn response_until_close(address: SocketAddr, sent: &[u8]) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(sent).await.unwrap();
    let mut answer = vec![];
    let closed = tokio::time::timeout(TIMEOUT, connection.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "{:?} is still open", String::from_utf8_lossy(sent));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Connections with no bytes, a partial preface, a partial head or a partial body are closed.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed() {
    let suite = Suite::start().await;
    let form = "POST /invitations/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\
                Content-Type: application/x-www-form-urlencoded\r\n\r\ndo=";
    let (silent, preface, head, body) = tokio::join!(
        response_until_close(suite.address, b""),
        response_until_close(suite.address, b"PRI * HTTP/2.0\r\n"),
        response_until_close(suite.address, b"GET /invitations/x HTTP/1.1\r\nHost: local"),
        response_until_close(suite.address, form.as_bytes()),
    );
    assert_eq!((silent.as_str(), preface.as_str()), ("", ""), "closed without a response");
    assert!(
        head.is_empty() || head.starts_with("HTTP/1.1 408"),
        "response to a partial head: {head}"
    );
    assert!(body.starts_with("HTTP/1.1 408"), "response to a partial body: {body}");
    suite.finish().await;
}

/// True if the server answers a request over a connection.
async fn is_served(connection: &mut TcpStream) -> bool {
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut answer = [0; 12];
    let sent = connection.write_all(request).await;
    sent.is_ok() && connection.read_exact(&mut answer).await.is_ok()
}

/// One address can open a share of all connections; other addresses are still served.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_a_share_of_the_connections() {
    let suite = Suite::start_with(Options { connections_max: 8, ..Options::default() }).await;
    let connect = async |from: [u8; 4]| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(suite.address).await.unwrap()
    };
    // The loopback address may have half of the 8 connections. The client of `suite` has one of these 4.
    let mut open = vec![];
    for _ in 0..3 {
        let mut connection = connect([127, 0, 0, 1]).await;
        assert!(is_served(&mut connection).await);
        open.push(connection);
    }
    assert!(!is_served(&mut connect([127, 0, 0, 1]).await).await);
    assert!(is_served(&mut connect([127, 0, 0, 2]).await).await);
    drop(open);
    eventually("a free connection", async || {
        is_served(&mut connect([127, 0, 0, 1]).await).await.then_some(())
    })
    .await;
    suite.finish().await;
}

/// An unfinished TLS handshake is closed after its time-out.
#[tokio::test(flavor = "multi_thread")]
async fn a_tls_handshake_must_be_finished() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let certificates = folder.path().join("certs");
    let created = Process::run("tenantry", &["certs", "--out", &certificates.to_string_lossy()]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let file = |name: &str| Some(certificates.join(name));
    let config = chassis::Config {
        tls_cert: file("identity.pem"),
        tls_key: file("identity.key"),
        tls_ca: file("ca.pem"),
        ..testkit::config()
    };
    let data = host::DataDir::open(Some(folder.path())).unwrap();
    let mut host = host::Host::new(config, database.options.clone(), data).unwrap();
    for install in tenantry::INSTALLS {
        install(&mut host).unwrap();
    }
    let socket = host::process::bind(testkit::LOOPBACK).unwrap();
    let address = socket.local_addr().unwrap();
    let (ready_sender, ready) = tokio::sync::oneshot::channel();
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let running = tokio::spawn(host.run(socket, move || _ = ready_sender.send(()), stopped));
    ready.await.unwrap();
    // The start of a ClientHello.
    // The header of a TLS handshake record of 512 bytes, and the first of these bytes.
    assert_eq!(response_until_close(address, &[0x16, 3, 1, 2, 0, 1]).await, "");
    stop.cancel();
    running.await.unwrap().unwrap();
    database.drop().await;
}

/// Connections that never begin TLS are closed, and their memory is returned.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_closed_and_their_memory_is_returned() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let created = Process::run("tenantry", &["certs", "--out", &path("certs")]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let port = ReservedPort::new();
    let arguments = [
        format!("--data-dir={}", path("data")),
        format!("--listen=127.0.0.1:{}", port.number()),
        format!("--tls-cert={}", path("certs/identity.pem")),
        format!("--tls-key={}", path("certs/identity.key")),
        format!("--tls-ca={}", path("certs/ca.pem")),
        format!("--database-url={}", database.url_as("tenantry_identity")),
        // Calls do not need NATS.
        "--nats-url=nats://127.0.0.1:1".to_owned(),
    ];
    let service = Process::start("identity", &arguments, &folder.path().join("log"));
    let url = format!("https://localhost:{}", port.number());
    let authority = std::fs::read_to_string(path("certs/ca.pem")).unwrap();
    eventually("the service", async || {
        tenantry::client::Client::connect(&url, Some(&authority)).await.ok().map(drop)
    })
    .await;
    let before = service.resident_bytes();
    let mut connections = vec![];
    for _ in 0..1_500 {
        connections.push(TcpStream::connect(("127.0.0.1", port.number())).await.unwrap());
    }
    for connection in &mut connections {
        let mut answer = vec![];
        let closed = tokio::time::timeout(TIMEOUT, connection.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "a silent connection is still open");
    }
    drop(connections);
    eventually("the return of the memory", async || {
        let grown = service.resident_bytes().saturating_sub(before);
        (grown < 15 << 20).then_some(())
    })
    .await;
    assert!(service.stop());
    database.drop().await;
}

/// A long poll ends when the agent token is rotated.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_ends_with_its_token() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let connect = world.org_request(json!({ "name": "eu-1", "address": "a.example.com" }));
    let connected = world.owner.call_ok(&format!("{SERVERS}/ConnectServer"), connect).await;
    let token = text(&connected["agentToken"]);
    let lease = prj::LeaseTaskRequest {
        runner: "eu-1".to_owned(),
        wait: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
    };
    let channel = raw::connect(suite.address).await;
    let method = "tenantry.project.v1.RunnerService/LeaseTask";
    let waiting = raw::call(&channel, method, Some(&token), lease.encode_to_vec());
    let rotate = async {
        let server = world.org_request(json!({ "serverId": connected["server"]["id"] }));
        // Waits until the long poll is open: its last statement reads the agent token.
        let waits = "select count(*) from pg_stat_activity
                     where datname = current_database() and pid <> pg_backend_pid()
                       and query like '%token_hash is not null%'";
        eventually("the long poll", async || (suite.count(waits).await > 0).then_some(())).await;
        world.owner.call_ok(&format!("{SERVERS}/RotateServerToken"), server).await;
    };
    let (refused, ()) = tokio::join!(waiting, rotate);
    assert_eq!(raw::reason(&refused.unwrap_err()), "INVALID_CREDENTIAL");
    suite.finish().await;
}
