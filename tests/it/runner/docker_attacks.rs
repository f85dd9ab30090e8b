//! Attacks of deployed code in containers: on neighbours, the machine, the control plane and the engine. Each
//! is a real deployment.

use std::{
    net::{TcpListener, UdpSocket},
    process::Command,
};

use api::project::{Observed, TaskKind};
use testkit::{BASE_IMAGE, Engine, Suite};

use super::{
    conformance::{Docker, bench::Bench},
    docker::dockerfile_bench,
    sandbox::SHELL_SERVER,
};
use crate::support::hosting::{response, visit};

/// An environment whose program runs the shell commands of requests.
struct Attacker {
    bench: Bench,
    id: String,
    url: String,
}

impl Attacker {
    async fn new() -> Option<Self> {
        let bench = Bench::new(&Docker).await?;
        bench.repository.write("shell.pl", SHELL_SERVER);
        bench.commit("attack", "true", "exec perl shell.pl");
        let id = bench.environment();
        let (_, url) = bench.deploy(&id).await;
        Some(Self { bench, id, url })
    }

    async fn shell(&self, command: &str) -> String {
        let path = format!("/{}", data_encoding::HEXLOWER.encode(command.as_bytes()));
        response(&self.url, &path).await
    }

    /// Result of a connection to a TCP port: `reached` or `refused`.
    async fn connect(&self, address: &str, port: u16) -> String {
        self.shell(&format!(
            "perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(PeerAddr=>\"{address}\",\
             PeerPort=>{port},Timeout=>2) ? \"reached\" : \"refused\"'"
        ))
        .await
    }

    /// Address of the machine in the network of the container.
    async fn gateway(&self) -> String {
        let route = "perl -lane 'print join \".\", reverse map { hex } $F[2] =~ /../g \
                     if $F[1] eq \"00000000\"' /proc/net/route";
        self.shell(route).await.trim().to_owned()
    }
}

/// Container address of an environment, as the engine has it.
async fn container_address(environment: &str) -> String {
    let client = Engine::shared().await.expect("an engine").client();
    let network = client.inspect_network(&format!("tenantry-{environment}"), None).await.unwrap();
    let containers = network.containers.unwrap_or_default();
    let address = containers.values().next().and_then(|it| it.ipv4_address.clone());
    address.expect("a container in the network").split('/').next().unwrap_or_default().to_owned()
}

/// The port of a neighbour, which this machine reaches, is unreachable at its container and where it is
/// published.
#[tokio::test(flavor = "multi_thread")]
async fn the_port_of_a_neighbour_is_unreachable() {
    let Some(attacker) = Attacker::new().await else { return };
    let neighbour = attacker.bench.environment();
    let (_, url) = attacker.bench.deploy(&neighbour).await;
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let address = container_address(&neighbour).await;
    assert!(
        visit(&format!("http://{address}:{port}"), "/").await.is_some(),
        "the machine reaches it"
    );
    assert_eq!(attacker.connect(&address, port).await, "refused");
    let gateway = attacker.gateway().await;
    for published in ["127.0.0.1", &*gateway] {
        assert_eq!(attacker.connect(published, port).await, "refused", "{published}");
    }
    attacker.bench.finish().await;
}

/// A service of the machine that listens at all addresses is unreachable: at the loopback address, the
/// gateway, and each address of the machine, also the link-local one of cloud metadata.
#[tokio::test(flavor = "multi_thread")]
async fn the_machine_and_metadata_addresses_are_unreachable() {
    let Some(attacker) = Attacker::new().await else { return };
    let metadata = "169.254.169.254";
    let lo = |verb: &str| {
        let address = format!("{metadata}/32");
        Command::new("ip").args(["address", verb, &address, "dev", "lo"]).output().unwrap()
    };
    lo("replace");
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let reached = std::net::TcpStream::connect((metadata, port)).is_ok();
    assert!(reached, "this machine reaches the address");
    let gateway = attacker.gateway().await;
    assert!(gateway.starts_with("10.213."), "{gateway}");
    for address in ["127.0.0.1", &*gateway, "10.213.0.1", metadata] {
        assert_eq!(attacker.connect(address, port).await, "refused", "{address}");
    }
    lo("delete");
    attacker.bench.finish().await;
}

/// Address of this machine at which others reach it; `None` without a route to others.
fn machine_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

/// The control plane is unreachable at addresses of this machine, also at those to which a container has a
/// route: the gateway of its network, and the address at which others reach this machine.
#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_is_unreachable() {
    let Some(attacker) = Attacker::new().await else { return };
    let suite = Suite::start().await;
    let port = testkit::start_gateway(suite.address).await;
    let gateway = attacker.gateway().await;
    let others = machine_address();
    for address in ["127.0.0.1", &*gateway].into_iter().chain(others.as_deref()) {
        let reached = std::net::TcpStream::connect((address, port)).is_ok();
        assert!(reached, "this machine reaches the suite at {address}");
        assert_eq!(attacker.connect(address, port).await, "refused", "{address}");
    }
    suite.finish().await;
    attacker.bench.finish().await;
}

/// Processes of a container are limited in number; the program still serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_is_limited() {
    let Some(attacker) = Attacker::new().await else { return };
    let bomb = "perl -e 'my $n = 0; for (1..3000) { my $p = fork; last unless defined $p; \
                if (!$p) { sleep 3; exit } $n++ } print \"started=$n\"'";
    let started = attacker.shell(bomb).await;
    let count: u32 = started.trim().trim_start_matches("started=").parse().unwrap();
    assert!((500..1_024).contains(&count), "{count} processes");
    assert!(attacker.shell("echo alive").await.contains("alive"));
    attacker.bench.finish().await;
}

/// The steps of a build are limited in number of processes, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_in_a_dockerfile_is_limited() {
    let bomb = "sleep 1; perl -e 'my $n = 0; for (1..3000) { my $p = fork; last unless defined $p; \
                if (!$p) { sleep 3; exit } $n++ } print \"started=$n\\n\"; exit 4'";
    let Some(bench) = dockerfile_bench(&format!("FROM {BASE_IMAGE}\nRUN {bomb}\n")).await else {
        return;
    };
    let played = bench.play(&bench.lease(TaskKind::Deploy, &bench.environment())).await;
    let count = played.log.lines().find_map(|it| it.strip_prefix("started=")).expect("an output");
    assert!((500..1_024).contains(&count.parse::<u32>().unwrap()), "{count} processes");
    played.error();
    bench.finish().await;
}

/// A process that exceeds the memory of its environment is killed; a neighbour still serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_memory_bomb_is_killed() {
    let Some(attacker) = Attacker::new().await else { return };
    let neighbour = attacker.bench.environment();
    let (_, url) = attacker.bench.deploy(&neighbour).await;
    let bomb = "python3 -c 'x = b\"x\" * (900 << 20); print(\"hoarded\")'; echo code=$?";
    let output = attacker.shell(bomb).await;
    assert!(!output.contains("hoarded") && output.contains("code=137"), "{output}");
    assert!(attacker.shell("echo alive").await.contains("alive"));
    assert!(visit(&url, "/").await.is_some());
    attacker.bench.finish().await;
}

/// A program that fills the disk outside of its data is stopped at the limit of its environment.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_filler_is_stopped() {
    let text = format!(
        "FROM {BASE_IMAGE}\nWORKDIR /srv\nRUN mkdir -m 777 /srv/open\nCOPY shell.pl ./\n\
         CMD [\"perl\", \"shell.pl\"]\n"
    );
    let Some(bench) = dockerfile_bench(&text).await else { return };
    bench.repository.write("shell.pl", SHELL_SERVER);
    bench.repository.commit("fill");
    let id = bench.environment();
    let (_, url) = bench.deploy(&id).await;
    let attacker = Attacker { bench, id, url };
    let one = attacker.shell("head -c 1200000000 /dev/zero > /srv/open/one; echo code=$?").await;
    assert!(!one.contains("code=0"), "a file has the limit of the environment: {one}");
    let two = "head -c 200000000 /dev/zero > /srv/open/two; echo code=$?";
    assert!(attacker.shell(two).await.contains("code=0"));
    attacker.bench.driver.measure().await;
    attacker.bench.supervise_until(&attacker.id, Observed::Failed).await;
    let detail = attacker.bench.report(&attacker.id).await.detail;
    assert!(detail.contains("exceed its disk limit"), "{detail}");
    attacker.bench.finish().await;
}

/// No capability, no new privileges, a seccomp filter, an account of its own: no raw sockets, no mounts, no
/// namespaces, no process of others to trace.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_no_privileges() {
    let Some(attacker) = Attacker::new().await else { return };
    let status = attacker.shell("cat /proc/self/status").await;
    for line in
        ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert!(!status.contains("Uid:\t0"), "{status}");
    let raw = "perl -MSocket -e 'for ([AF_INET, SOCK_RAW, 1], [17, SOCK_RAW, 768]) { \
               print socket(my $s, $_->[0], $_->[1], $_->[2]) ? \"opened\\n\" : \"$!\\n\" }'";
    let raw = attacker.shell(raw).await;
    assert_eq!(raw, "Operation not permitted\nOperation not permitted\n");
    for escape in [
        "mount -t tmpfs none /mnt",
        "mount --bind /data /etc",
        "unshare -Ur true",
        "unshare -m true",
        "chroot / true",
        "mknod /data/disk b 254 0",
        "nsenter -t 1 -m true",
    ] {
        let output = attacker.shell(&format!("{escape} && echo escaped")).await;
        assert!(!output.lines().any(|it| it == "escaped"), "{escape}: {output}");
    }
    attacker.bench.finish().await;
}

/// Processes of the machine and of neighbours are neither visible nor traceable.
#[tokio::test(flavor = "multi_thread")]
async fn processes_of_others_cannot_be_traced() {
    let Some(attacker) = Attacker::new().await else { return };
    let own = std::process::id();
    let count = attacker.shell("ls -d /proc/[0-9]* | wc -l").await;
    assert!(count.trim().parse::<u32>().unwrap() < 12, "{count}");
    let attach = format!(
        "python3 -c 'import ctypes; print(ctypes.CDLL(None, use_errno=True).ptrace(16, {own}, 0, 0), \
         ctypes.get_errno())'"
    );
    assert_eq!(attacker.shell(&attach).await, "-1 3\n", "no such process");
    let signal = attacker.shell(&format!("kill -9 {own} && echo sent")).await;
    assert!(!signal.contains("sent"), "{signal}");
    attacker.bench.finish().await;
}

/// No file of the machine is visible, neither the engine's socket nor that of the runner.
#[tokio::test(flavor = "multi_thread")]
async fn the_socket_of_the_engine_is_unreachable() {
    let Some(attacker) = Attacker::new().await else { return };
    let socket = Engine::shared().await.expect("an engine").socket();
    let socket = socket.display();
    assert!(socket.to_string().starts_with('/'));
    let found = "find / -xdev -type s 2>/dev/null; ls -d /var/run/docker.sock /run/docker.sock";
    let output = attacker.shell(&format!("{found} {socket} && echo found")).await;
    assert!(
        !output.contains("found") && !output.lines().any(|it| it.ends_with("sock")),
        "{output}"
    );
    let own = attacker.shell("ls /data/.. ; cat /proc/mounts").await;
    assert!(!own.contains("record.json") && !own.contains("docker.sock"), "{own}");
    attacker.bench.finish().await;
}

/// Links in the repository are not followed to files of the machine: neither as Dockerfile nor in the
/// context.
#[tokio::test(flavor = "multi_thread")]
async fn links_in_a_build_context_are_not_followed() {
    let copy = format!(
        "FROM {BASE_IMAGE}\nWORKDIR /srv\nCOPY . ./\nRUN cat secret > page.txt; ls -la > list; true\n\
         CMD [\"perl\", \"server.pl\"]\n"
    );
    let Some(bench) = dockerfile_bench(&copy).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "of the machine").unwrap();
    let link = |name: &str| {
        let path = bench.repository.path().join(name);
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(&secret, path).unwrap();
        bench.repository.commit("linked");
    };
    link("secret");
    let (_, url) = bench.deploy(&bench.environment()).await;
    assert!(!bench.page(&url).await.contains("of the machine"));
    link("Dockerfile");
    let played = bench.play(&bench.lease(TaskKind::Deploy, &bench.environment())).await;
    assert!(!played.log.contains("of the machine"), "{}", played.log);
    let error = played.error();
    assert!(error.contains("symbolic link that leaves the repository"), "{error}");
    bench.finish().await;
}

/// Layers that another environment has built are not used, though the instructions are the same; its own are.
#[tokio::test(flavor = "multi_thread")]
async fn the_build_cache_of_a_neighbour_is_not_used() {
    let text = format!(
        "FROM {BASE_IMAGE}\nWORKDIR /srv\nRUN head -c 8 /dev/urandom | od -An -tx1 > page.txt\n\
         COPY server.pl ./\nCMD [\"perl\", \"server.pl\"]\n"
    );
    let Some(bench) = dockerfile_bench(&text).await else { return };
    let built = async |id: &str| {
        let (_, url) = bench.deploy(id).await;
        bench.page(&url).await.lines().next().unwrap_or_default().to_owned()
    };
    let (poisoner, victim) = (bench.environment(), bench.environment());
    let first = built(&poisoner).await;
    assert_eq!(first, built(&poisoner).await, "its own layers are cached");
    assert_ne!(first, built(&victim).await, "the layer of another environment");
    bench.finish().await;
}

/// A manifest cannot name an image of another environment, or ask for privileges; its commands are data.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_manifest_is_refused() {
    let Some(bench) = Bench::new(&Docker).await else { return };
    let victim = bench.environment();
    let (deployed, _) = bench.deploy(&victim).await;
    let foreign = format!("[run]\nimage = \"tenantry/{victim}:{}\"\n", deployed.release);
    for (manifest, reason) in [
        (&*foreign, "belongs to an environment of this server"),
        ("[run]\nimage = \"docker.io/tenantry/x:1\"\n", "belongs to an environment"),
        ("[run]\nimage = \"cafe\"\n", "could be the id of an image"),
        ("[run]\ncommand = \"true\"\nprivileged = true\n", "unknown field `privileged`"),
        ("[run]\ncommand = \"true\"\nvolumes = [\"/:/host\"]\n", "unknown field `volumes`"),
        ("[run]\nimage = \"\"\n", "could be the id of an image"),
    ] {
        bench.repository.write("tenantry.toml", manifest);
        bench.repository.commit("hostile");
        let error = bench.play(&bench.lease(TaskKind::Deploy, &bench.environment())).await.error();
        assert!(error.contains(reason), "{manifest}: {error}");
    }
    std::fs::remove_file(bench.repository.path().join("tenantry.toml")).unwrap();
    bench.repository.write("Dockerfile", "FROM test-base:1\nCOPY --from=cafe / /\n");
    bench.repository.commit("hostile");
    let error = bench.play(&bench.lease(TaskKind::Deploy, &bench.environment())).await.error();
    assert!(error.contains("could be the id of an image"), "{error}");
    bench.finish().await;
}
