//! Limits before a call is admitted: what strangers leave open takes nothing from anybody else.

use std::net::SocketAddr;

use api::project as prj;
use prost::Message;
use serde_json::json;
use testkit::{Database, Options, PATIENCE, Process, Suite, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tonic::{Code, Status, transport::Channel};

use crate::{
    hosting::SERVERS,
    raw,
    world::{World, text},
};

const LOGIN: &str = "tenantry.identity.v1.SessionService/Login";
const HEALTH: &str = "grpc.health.v1.Health/Check";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// Requests over one connection; it takes 256.
const STREAMS: usize = 250;

/// Requests whose bodies never end, over connections of their own.
struct Unfinished {
    channels: Vec<Channel>,
    calls: JoinSet<Result<bytes::Bytes, Status>>,
}

impl Unfinished {
    async fn open(address: SocketAddr, count: usize) -> Self {
        let mut it = Self { channels: vec![], calls: JoinSet::new() };
        for opened in 0..count {
            if opened % STREAMS == 0 {
                it.channels.push(raw::connect(address).await);
            }
            let channel = it.channels.last().unwrap().clone();
            it.calls.spawn(async move { raw::unfinished(&channel, LOGIN, None).await });
        }
        // A request at the end of each connection is answered after those before it have arrived.
        for channel in &it.channels {
            let _ = raw::call(channel, "tenantry.identity.v1.UserService/Nope", None, vec![]).await;
        }
        it
    }
}

/// 512 requests that never end take no permit of anybody, and health is still checked.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_requests_refuse_nobody_else() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let unfinished = Unfinished::open(suite.address, 512).await;
    for _ in 0..20 {
        ann.tell("identity.v1.UserService/GetMe", json!({})).await;
    }
    let channel = raw::connect(suite.address).await;
    assert_eq!(raw::call(&channel, HEALTH, None, vec![]).await.unwrap().as_ref(), [8, 1]);
    // `list_services: "*"`
    let listed = raw::first(&channel, REFLECTION, vec![0x3a, 1, b'*']).await.unwrap();
    assert!(String::from_utf8_lossy(&listed).contains("tenantry.identity.v1.SessionService"));
    drop(unfinished);
    suite.finish().await;
}

/// A request whose body does not arrive is answered when its time is over, and has run nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_must_arrive_within_the_deadline() {
    let suite = Suite::start().await;
    let channel = raw::connect(suite.address).await;
    let deadline = Some(std::time::Duration::from_millis(200));
    let late = raw::unfinished(&channel, LOGIN, deadline).await.unwrap_err();
    assert_eq!(
        (late.code(), raw::reason(&late).as_str()),
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
    );
    suite.finish().await;
}

/// A runner's question for work is open for seconds; it takes nothing from calls that are answered at once.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_runners_leave_room_for_other_calls() {
    let suite = Suite::start_with(Options { in_flight_max: 8, ..Options::default() }).await;
    let world = World::new(&suite).await;
    let connect = world.here(json!({ "name": "eu-1", "address": "a.example.com" }));
    let made = world.owner.tell(&format!("{SERVERS}/ConnectServer"), connect).await;
    let token = text(&made["agentToken"]);
    let lease = prj::LeaseTaskRequest {
        runner: "eu-1".to_owned(),
        wait: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
    };
    let mut waiting = JoinSet::new();
    for _ in 0..8 {
        let (channel, token, body) =
            (raw::connect(suite.address).await, token.clone(), lease.encode_to_vec());
        waiting.spawn(async move {
            raw::call(&channel, "tenantry.project.v1.RunnerService/LeaseTask", Some(&token), body)
                .await
        });
    }
    for _ in 0..50 {
        world.owner.tell("identity.v1.UserService/GetMe", json!({})).await;
    }
    assert!(waiting.try_join_next().is_none(), "the runners still wait");
    drop(waiting);
    suite.finish().await;
}

/// The last bytes that a connection gets that sent too little, before it is closed.
async fn last_bytes(address: SocketAddr, said: &[u8]) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(said).await.unwrap();
    let mut answer = vec![];
    let closed = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "{:?} is still open", String::from_utf8_lossy(said));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Connections that say nothing, half a preface, half a head or half a body are closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stops_talking_is_closed() {
    let suite = Suite::start().await;
    let form = "POST /invitations/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\
                Content-Type: application/x-www-form-urlencoded\r\n\r\ndo=";
    let (silent, preface, head, body) = tokio::join!(
        last_bytes(suite.address, b""),
        last_bytes(suite.address, b"PRI * HTTP/2.0\r\n"),
        last_bytes(suite.address, b"GET /invitations/x HTTP/1.1\r\nHost: local"),
        last_bytes(suite.address, form.as_bytes()),
    );
    assert_eq!((silent.as_str(), preface.as_str()), ("", ""));
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 408"), "{head}");
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    suite.finish().await;
}

/// Whether a connection is served: a request is answered before it is closed.
async fn is_served(connection: &mut TcpStream) -> bool {
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut answer = [0; 12];
    let asked = connection.write_all(request).await;
    asked.is_ok() && connection.read_exact(&mut answer).await.is_ok()
}

/// One address holds a share of the connections and no more; who comes from elsewhere is served.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_holds_a_share_of_the_connections() {
    let suite = Suite::start_with(Options { connections_max: 8, ..Options::default() }).await;
    let connect = async |from: [u8; 4]| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(suite.address).await.unwrap()
    };
    // The suite's own client holds one of the four.
    let mut open = vec![];
    for _ in 0..3 {
        let mut connection = connect([127, 0, 0, 1]).await;
        assert!(is_served(&mut connection).await);
        open.push(connection);
    }
    assert!(!is_served(&mut connect([127, 0, 0, 1]).await).await);
    assert!(is_served(&mut connect([127, 0, 0, 2]).await).await);
    drop(open);
    eventually("room for another connection", async || {
        is_served(&mut connect([127, 0, 0, 1]).await).await.then_some(())
    })
    .await;
    suite.finish().await;
}

/// A TLS handshake that is not finished ends in time.
#[tokio::test(flavor = "multi_thread")]
async fn a_tls_handshake_must_be_finished() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (database, folder) = (Database::new().await, tempfile::tempdir().unwrap());
    let certificates = folder.path().join("certs");
    let made = Process::run("tenantry", &["certs", "--out", &certificates.to_string_lossy()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = |name: &str| Some(certificates.join(name));
    let config = chassis::Config {
        tls_cert: file("identity.pem"),
        tls_key: file("identity.key"),
        tls_ca: file("ca.pem"),
        ..testkit::config()
    };
    let data = chassis::host::DataDir::open(Some(folder.path())).unwrap();
    let mut host = chassis::Host::new(config, database.options.clone(), data).unwrap();
    for install in tenantry::INSTALLS {
        install(&mut host).unwrap();
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(host.run(listener, || (), stop.clone().cancelled_owned()));
    // The first bytes of a ClientHello.
    assert_eq!(last_bytes(address, &[0x16, 3, 1, 2, 0, 1]).await, "");
    stop.cancel();
    running.await.unwrap().unwrap();
    database.drop().await;
}

/// A runner whose token is replaced while it waits gets no work with the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_waits_only_as_long_as_its_token_is_good() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let connect = world.here(json!({ "name": "eu-1", "address": "a.example.com" }));
    let made = world.owner.tell(&format!("{SERVERS}/ConnectServer"), connect).await;
    let token = text(&made["agentToken"]);
    let lease = prj::LeaseTaskRequest {
        runner: "eu-1".to_owned(),
        wait: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
    };
    let channel = raw::connect(suite.address).await;
    let method = "tenantry.project.v1.RunnerService/LeaseTask";
    let waiting = raw::call(&channel, method, Some(&token), lease.encode_to_vec());
    let rotate = async {
        let server = world.here(json!({ "serverId": made["server"]["id"] }));
        // Once the runner waits.
        let waits = "select count(*) from pg_stat_activity
                     where datname = current_database() and pid <> pg_backend_pid()
                       and query like '%token_hash is not null%'";
        eventually("a runner", async || (suite.count(waits).await > 0).then_some(())).await;
        world.owner.tell(&format!("{SERVERS}/RotateServerToken"), server).await;
    };
    let (refused, ()) = tokio::join!(waiting, rotate);
    assert_eq!(raw::reason(&refused.unwrap_err()), "INVALID_CREDENTIAL");
    suite.finish().await;
}
