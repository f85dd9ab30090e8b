//! Environments of a runner: requests through its proxy, and processor time while nothing happens.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use runner::{ProxySettings, Tls};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
};

use crate::{
    hosting::{SERVER, write_repository},
    load,
    local_runner::LocalRunner,
    print, print_rates,
    runner_load::cpu_seconds,
};

/// Runs all measurements.
pub(crate) async fn run() -> Result<()> {
    measure_proxy().await?;
    measure_idle().await
}

/// Number of environments that do nothing.
const IDLE_ENVIRONMENTS: usize = 200;

/// Duration of the measurement of idle environments: four heartbeats.
const IDLE_TIME: Duration = Duration::from_secs(20);

/// Measures the processor time of a runner, including the programs that it starts, but not those of its
/// environments.
async fn measure_idle() -> Result<()> {
    let mut runner = LocalRunner::start(SERVER, None)?;
    let without = idle_share().await?;
    runner.deploy(IDLE_ENVIRONMENTS, |_| String::new()).await?;
    let with = idle_share().await?;
    print(&format!(
        "| A runner with {IDLE_ENVIRONMENTS} idle environments | {:.1} % of a core | {:.1} % (without) | | \
         < 5 % |\n",
        with * 100.0,
        without * 100.0
    ));
    runner.stop().await
}

/// Returns the used part of one core.
async fn idle_share() -> Result<f64> {
    let (cpu_before, start) = (cpu_seconds()?, Instant::now());
    tokio::time::sleep(IDLE_TIME).await;
    Ok((cpu_seconds()? - cpu_before) / start.elapsed().as_secs_f64())
}

/// HTTP server in Perl that keeps connections, with two processes.
const KEEPING_SERVER: &str = r#"use IO::Socket::INET; use IO::Select;
my $server = IO::Socket::INET->new(LocalAddr => $ENV{HOST}, LocalPort => $ENV{PORT}, Listen => 512,
    ReuseAddr => 1, Blocking => 0) or die;
$SIG{PIPE} = 'IGNORE'; fork;
my $select = IO::Select->new($server); my %heads;
while (1) {
    for my $socket ($select->can_read) {
        if ($socket == $server) {
            while (my $client = $server->accept) { $select->add($client); $heads{$client} = '' }
        } elsif (!sysread($socket, $heads{$socket}, 4096, length $heads{$socket})) {
            $select->remove($socket); delete $heads{$socket}; close $socket;
        } elsif ($heads{$socket} =~ /\r\n\r\n$/) {
            syswrite $socket, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
            my $is_last = $heads{$socket} =~ /^Connection: close/im; $heads{$socket} = '';
            if ($is_last) { $select->remove($socket); delete $heads{$socket}; close $socket }
        }
    }
}
"#;

/// Host name of the environment.
const HOSTNAME: &str = "main-shop.apps.test";

/// Number of connections that clients keep, each with one request in flight.
const CLIENTS: usize = 8;

/// Number of rounds, whose median is printed.
const ROUNDS: usize = 3;

/// Measures requests to an environment through the proxy of its runner. Reference: Caddy alone in front of
/// the same program, without a sandbox, with connections to it that are kept, as is its default, and with new
/// ones.
async fn measure_proxy() -> Result<()> {
    let caddy = caddy();
    ensure!(caddy.exists(), "Caddy is not installed; run `cargo xtask test`");
    let port = unused_port()?;
    let proxy = ProxySettings {
        apps_domain: "apps.test".to_owned(),
        caddy: caddy.clone(),
        http_port: port,
        https_port: unused_port()?,
        tls: Tls::Off,
    };
    let mut runner = LocalRunner::start(KEEPING_SERVER, Some(proxy))?;
    runner.deploy(1, |_| HOSTNAME.to_owned()).await?;
    let folder = tempfile::tempdir()?;
    write_repository(folder.path(), KEEPING_SERVER)?;
    let program = Process::program(folder.path())?;
    let kept = Process::caddy(&caddy, folder.path(), program.port, true)?;
    let new = Process::caddy(&caddy, folder.path(), program.port, false)?;
    let (mut ours, mut with_kept, mut with_new) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        ours.push(rate(port).await?);
        with_kept.push(rate(kept.port).await?);
        with_new.push(rate(new.port).await?);
    }
    let [ours, with_kept, with_new] = [ours, with_kept, with_new].map(crate::median);
    print_rates("Requests through the proxy (Caddy alone)", ours, with_kept, "≥ 0.8");
    print_rates("the same (Caddy alone, a connection for each request)", ours, with_new, "");
    runner.stop().await
}

/// Path of Caddy, which `cargo xtask bench` installs.
fn caddy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/caddy/bin/caddy")
}

fn unused_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A process that listens on a port. It is killed when it is dropped.
struct Process {
    child: Child,
    port: u16,
}

impl Process {
    /// Starts the program of a repository.
    fn program(repository: &Path) -> Result<Self> {
        let port = unused_port()?;
        let mut program = Command::new("perl");
        program.arg("server.pl").current_dir(repository);
        program.env("HOST", "127.0.0.1").env("PORT", port.to_string());
        Self::start(program, port)
    }

    /// Starts Caddy with the program at a port as its only upstream.
    fn caddy(caddy: &Path, folder: &Path, upstream: u16, keeps_connections: bool) -> Result<Self> {
        let port = unused_port()?;
        let keep_alive = if keeps_connections { "" } else { "transport http { keepalive off }" };
        let configuration = format!(
            "{{\n admin off\n auto_https off\n persist_config off\n}}\nhttp://{HOSTNAME}:{port} {{\n \
             reverse_proxy 127.0.0.1:{upstream} {{\n  {}\n }}\n}}\n",
            keep_alive.replace("{ ", "{\n   ").replace(" }", "\n  }")
        );
        let file = folder.join(format!("{port}.caddyfile"));
        std::fs::write(&file, configuration)?;
        let mut program = Command::new(caddy);
        program.arg("run").arg("--config").arg(file).args(["--adapter", "caddyfile"]);
        program.env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
        program.env("HOME", folder).stderr(Stdio::null());
        Self::start(program, port)
    }

    fn start(mut program: Command, port: u16) -> Result<Self> {
        let mut process = Self { child: program.process_group(0).spawn()?, port };
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            ensure!(process.child.try_wait()?.is_none(), "a program of the measurement has ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // With the processes that it has started.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
    }
}

/// Measures the requests per second of clients that keep their connections.
async fn rate(port: u16) -> Result<f64> {
    let mut connections = vec![];
    for _ in 0..CLIENTS {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        connections.push(Mutex::new(TcpStream::connect(address).await?));
    }
    let connections = Arc::new(connections);
    load::rate(CLIENTS, move |caller, _| {
        let connections = connections.clone();
        async move { get(&mut *connections[caller].lock().await).await }
    })
    .await
}

/// Sends a request and reads its response, which must be that of the program.
async fn get(connection: &mut TcpStream) -> Result<()> {
    let request = format!("GET / HTTP/1.1\r\nHost: {HOSTNAME}\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut response = vec![];
    while !response.ends_with(b"\r\n\r\nok\n") {
        let length = connection.read_buf(&mut response).await?;
        let is_complete = length > 0 && response.len() < 4_096;
        ensure!(is_complete, "another response: {}", String::from_utf8_lossy(&response));
    }
    Ok(())
}
