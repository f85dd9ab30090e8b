//! A connected server whose runner serves environments below an apps domain through Caddy, and visitors of
//! these environments.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Certificate, Client, Response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::{Process, ReservedPort, Suite, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    fake_runner::FakeRunner, hosting::Hosting, server_network::ServerNetwork, world::text,
};

pub(crate) const APPS_DOMAIN: &str = "apps.test";

/// HTTP server in Perl that keeps connections, a process for each: responds with `page.txt` and the headers
/// of the request. A web socket gets a text frame with the page for each frame that it sends.
const SERVER: &str = r#"use IO::Socket::INET; use Digest::SHA 'sha1_base64';
open(my $file, '<', 'page.txt') or die "$!"; my $page = join '', <$file>;
my $server = IO::Socket::INET->new(
    LocalAddr => $ENV{HOST}, LocalPort => $ENV{PORT}, Listen => 128, ReuseAddr => 1) or die "$!";
$SIG{CHLD} = 'IGNORE'; $SIG{PIPE} = 'IGNORE';
while (1) {
    my $client = $server->accept or next;
    if (fork) { close $client; next }
    close $server;
    while (1) {
        my ($headers, $key) = ('', '');
        while (defined(my $line = <$client>)) {
            last if $line =~ /^\r?\n$/;
            $headers .= $line;
            $key = $1 if $line =~ /^Sec-WebSocket-Key: (\S+)/i;
        }
        exit unless $headers;
        if ($key) {
            my $accept = sha1_base64($key . '258EAFA5-E914-47DA-95CA-C5AB0DC85B11') . '=';
            syswrite $client, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                . "Connection: Upgrade\r\nSec-WebSocket-Accept: $accept\r\n\r\n";
            while (sysread $client, my $frame, 1024) { syswrite $client, "\x81" . chr(length $page) . $page }
            exit;
        }
        exit 7 if $headers =~ m{^GET /end};
        my $body = $page . $headers;
        syswrite $client, "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
        exit if $headers =~ /^Connection: close/im;
    }
}
"#;

/// Account of the runner.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RunnerAccount {
    /// That of the test; if it is root, environments have networks of their own.
    Own,
    /// An unprivileged account, whose environments share the network of the machine.
    Unprivileged,
}

/// A connected server with a runner and Caddy, and a project with an environment on it.
pub(crate) struct WebSite {
    pub(crate) hosting: Hosting,
    pub(crate) server: String,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) http: ReservedPort,
    pub(crate) https: ReservedPort,
    account: RunnerAccount,
    apps_domain: &'static str,
    arguments: Vec<String>,
    network: Option<ServerNetwork>,
    address: SocketAddr,
    runner: Option<Process>,
}

/// Settings of the proxy of a runner.
pub(crate) struct Proxy {
    pub(crate) apps_domain: &'static str,
    /// More arguments of the runner.
    pub(crate) arguments: Vec<String>,
    pub(crate) http: ReservedPort,
    pub(crate) https: ReservedPort,
    /// Network of the server; `None`: that of this machine.
    pub(crate) network: Option<ServerNetwork>,
}

impl Proxy {
    /// A proxy on unused ports.
    pub(crate) fn new(apps_domain: &'static str) -> Self {
        let (http, https) = (ReservedPort::new(), ReservedPort::new());
        Self { apps_domain, arguments: vec![], http, https, network: None }
    }
}

impl WebSite {
    pub(crate) async fn new(suite: &Suite, account: RunnerAccount) -> Self {
        Self::with_proxy(suite, account, Proxy::new(APPS_DOMAIN)).await
    }

    pub(crate) async fn with_proxy(suite: &Suite, account: RunnerAccount, proxy: Proxy) -> Self {
        let fake = FakeRunner::new(suite).await;
        fake.hosting.repository.write("server.pl", SERVER);
        fake.hosting.repository.commit("one");
        let folder = tempfile::tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        std::fs::write(folder.path().join("token"), &fake.token).unwrap();
        let mut site = Self {
            hosting: fake.hosting,
            server: fake.server,
            folder,
            http: proxy.http,
            https: proxy.https,
            account,
            apps_domain: proxy.apps_domain,
            arguments: proxy.arguments,
            network: proxy.network,
            address: suite.address,
            runner: None,
        };
        site.start_runner();
        let healthy = "select count(*) from project.server where apps_domain <> '' and \
                       health = 'healthy'";
        eventually("a heartbeat", async || (suite.count(healthy).await == 1).then_some(())).await;
        site
    }

    pub(crate) fn start_runner(&mut self) {
        let folder = self.folder.path();
        let mut arguments = vec![
            format!("--project-url=http://{}", self.address),
            format!("--agent-token-file={}", folder.join("token").display()),
            format!("--data-dir={}", self.data_dir().display()),
            format!("--apps-domain={}", self.apps_domain),
            format!("--caddy={}", testkit::caddy().display()),
            format!("--http-port={}", self.http.number()),
            format!("--https-port={}", self.https.number()),
        ];
        arguments.extend_from_slice(&self.arguments);
        let log = folder.join("log");
        let program = "tenantry-runner";
        self.runner = Some(match (self.account, &self.network) {
            (_, Some(network)) => {
                Process::start_in_network(network.namespace(), program, &arguments, &log)
            }
            (RunnerAccount::Own, None) => Process::start(program, &arguments, &log),
            (RunnerAccount::Unprivileged, None) => {
                Process::start_unprivileged(program, &arguments, folder, &log)
            }
        });
    }

    pub(crate) fn kill_runner(&mut self) {
        self.runner.take().expect("a running runner").kill();
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Creates an environment of the server; returns its id.
    pub(crate) async fn environment(&self, name: &str) -> String {
        self.hosting.create_environment(json!({ "name": name, "serverId": self.server })).await
    }

    /// Runs a task, which must complete.
    pub(crate) async fn run(&self, verb: &str, id: &str, more: Value) {
        let task = self.hosting.run_task(verb, id, more).await;
        assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    }

    pub(crate) async fn url(&self, id: &str) -> String {
        text(&self.hosting.get(id).await["url"])
    }

    /// URL of a host below the apps domain.
    pub(crate) fn url_of(&self, label: &str) -> String {
        format!("https://{label}.{}:{}", self.apps_domain, self.https.number())
    }

    pub(crate) fn network(&self) -> &ServerNetwork {
        self.network.as_ref().expect("a server with a network of its own")
    }

    pub(crate) fn runner_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A client that trusts Caddy's authority, connects to the server for hosts with these labels below the
    /// apps domain and for these custom domains, and opens a connection for each request.
    pub(crate) fn visitor(&self, labels: &[&str]) -> Client {
        let authority = "proxy/data/pki/authorities/local/root.crt";
        let authority = std::fs::read(self.data_dir().join(authority)).unwrap();
        let authority = Certificate::from_pem(&authority).unwrap();
        let mut builder = Client::builder()
            .tls_certs_only([authority])
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(20))
            .pool_max_idle_per_host(0);
        for label in labels {
            let host = if label.contains('.') {
                (*label).to_owned()
            } else {
                format!("{label}.{APPS_DOMAIN}")
            };
            let server = self.network.as_ref().map_or(Ipv4Addr::LOCALHOST, ServerNetwork::address);
            builder = builder.resolve(&host, (server, 0).into());
        }
        builder.build().unwrap()
    }

    /// Pid of Caddy: the process whose files are in the directory of this runner.
    pub(crate) fn proxy_pid(&self) -> Option<i32> {
        let socket = self.data_dir().join("proxy/run/admin.sock");
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = pids.filter_map(|it| it.file_name().to_str()?.parse().ok());
        pids.find(|pid: &i32| {
            let folder = Path::new("/proc").join(pid.to_string());
            let environ = std::fs::read(folder.join("environ")).unwrap_or_default();
            let command = std::fs::read_to_string(folder.join("cmdline")).unwrap_or_default();
            let data = socket.parent().unwrap().with_file_name("data");
            let marker = format!("XDG_DATA_HOME={}", data.display());
            command.contains("caddy") && String::from_utf8_lossy(&environ).contains(&marker)
        })
    }

    /// Sends a signal to Caddy, which must run.
    pub(crate) fn signal_proxy(&self, signal: Signal) {
        let pid = self.proxy_pid().and_then(Pid::from_raw).expect("a running Caddy");
        kill_process(pid, signal).expect("a running Caddy");
    }

    /// Kills Caddy (`SIGKILL`).
    pub(crate) fn kill_proxy(&self) {
        self.signal_proxy(Signal::KILL);
    }

    pub(crate) async fn finish(mut self, suite: Suite) {
        self.kill_runner();
        suite.finish().await;
    }
}

impl Drop for WebSite {
    /// Ends the programs and Caddy, also after a failed test. The runner would start Caddy again.
    fn drop(&mut self) {
        drop(self.runner.take());
        testkit::stop_deployments_of_runner(&self.data_dir());
    }
}

/// Status, `Cache-Control` and body of a response.
pub(crate) async fn parts(response: Response) -> (u16, String, String) {
    let cache = response.headers().get("cache-control").map(|it| it.to_str().unwrap().to_owned());
    (response.status().as_u16(), cache.unwrap_or_default(), response.text().await.unwrap())
}

/// A web socket to a program of [`WebSite`].
pub(crate) struct WebSocket(reqwest::Upgraded);

impl WebSocket {
    /// Opens a web socket (RFC 6455, section 4).
    pub(crate) async fn open(visitor: &Client, url: &str) -> Self {
        Self::try_open(visitor, url).await.unwrap()
    }

    /// The same; an error is a text.
    pub(crate) async fn try_open(visitor: &Client, url: &str) -> Result<Self, String> {
        let request =
            visitor.get(url).header("Connection", "Upgrade").header("Upgrade", "websocket");
        let request = request.header("Sec-WebSocket-Version", "13");
        let request = request.header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        let response = request.send().await.map_err(|it| format!("{it:?}"))?;
        if response.status() != 101 {
            return Err(response.status().to_string());
        }
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        Ok(Self(response.upgrade().await.map_err(|it| format!("{it:?}"))?))
    }

    /// Sends an empty text frame; returns the text of the answer, or `None` if the web socket has ended.
    pub(crate) async fn ask(&mut self) -> Option<String> {
        // Masked, as frames of clients are, with the mask 0.
        self.0.write_all(&[0x81, 0x80, 0, 0, 0, 0]).await.ok()?;
        let mut head = [0; 2];
        self.0.read_exact(&mut head).await.ok()?;
        let mut text = vec![0; usize::from(head[1])];
        self.0.read_exact(&mut text).await.ok()?;
        String::from_utf8(text).ok()
    }
}
