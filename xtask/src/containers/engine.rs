//! Container engine and compose: those of this machine, or an engine of Debian that is started for the
//! checks, with its data in `target/engine`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Outcome,
    machine::{self, Need},
    run,
};

/// Compose, compiled from the Go module proxy if the machine has none.
const COMPOSE: &str = "github.com/docker/compose/v2";
const COMPOSE_VERSION: &str = "v2.40.3";

/// Longest time from the start of the engine until it answers.
const START_MAX: Duration = Duration::from_secs(60);

/// Engine, its command line, and iptables, which it calls.
const NEEDS: [Need; 2] =
    [machine::DOCKER, Need::new("iptables", || machine::runs("iptables", &["--version"]))];

static ENGINE: OnceLock<Engine> = OnceLock::new();

/// Programs that the checks call.
#[derive(Debug)]
struct Engine {
    /// Command line of the engine, which builds with BuildKit.
    docker: PathBuf,
    /// Program and first arguments of compose.
    compose: Vec<String>,
    /// `DOCKER_HOST` of an engine that was started for the checks.
    host: Option<String>,
}

/// Engine that was started for the checks; ends with this value.
#[derive(Debug)]
pub(crate) struct Started(Option<Child>);

/// Finds the engine of this machine, or starts one.
pub(crate) fn provide() -> Outcome<Started> {
    let (host, started) = if machine::runs("docker", &["version"]) {
        (None, None)
    } else {
        machine::need(&NEEDS)?;
        let (host, child) = start()?;
        (Some(host), Some(child))
    };
    let started = Started(started);
    allow_forwarding(started.0.is_some())?;
    let engine = Engine { docker: docker_program()?, compose: compose_program()?, host };
    ENGINE.set(engine).map_err(|_| "an engine was provided before".to_owned())?;
    Ok(started)
}

/// Checks that containers can reach each other. A runner that has turned on IP forwarding lets only its
/// environments forward; that of an earlier test is undone for an engine that was started for the checks.
fn allow_forwarding(is_own_engine: bool) -> Outcome {
    let chain = ["chain", "inet", "tenantry", "foreign"];
    if !machine::runs("nft", &[&["list"], &chain[..]].concat()) {
        return Ok(());
    }
    let delete = [&["delete"], &chain[..]].concat();
    let command = format!("nft {}", delete.join(" "));
    if is_own_engine {
        eprintln!("xtask: {command}, which a runner has left");
        run::program(Path::new("nft"), &delete)
    } else {
        Err(format!(
            "a runner on this machine blocks the networks of containers; stop it, run `{command}`, then \
             repeat the command"
        ))
    }
}

/// Error if this machine has no engine, and none can be started on it; the text says what is missing.
pub(crate) fn is_possible() -> Outcome {
    if machine::runs("docker", &["version"]) {
        return Ok(());
    }
    if !machine::is_root() {
        return Err("no container engine answers, and only root can start one".to_owned());
    }
    if !machine::runs("apt-get", &["--version"]) {
        return Err(
            "no container engine answers, and there is no apt-get to install one".to_owned()
        );
    }
    Ok(())
}

/// Starts an engine; returns its `DOCKER_HOST`, too.
fn start() -> Outcome<(String, Child)> {
    let folder = run::root().join("target/engine");
    fs::create_dir_all(&folder).map_err(|error| format!("cannot create target/engine: {error}"))?;
    // Paths of sockets are limited to 107 bytes.
    let state = std::env::temp_dir().join(format!("tenantry-engine-{}", std::process::id()));
    let host = format!("unix://{}/docker.sock", state.display());
    let log = File::create(folder.join("log")).map_err(|error| error.to_string())?;
    let mut dockerd = Command::new("dockerd");
    dockerd.arg("--data-root").arg(folder.join("data")).arg("--exec-root").arg(state.join("exec"));
    dockerd.arg("--pidfile").arg(state.join("pid")).args(["--host", &host, "--log-level", "warn"]);
    // Builds have the network of the machine, and compose makes networks.
    dockerd.args(["--bridge", "none"]);
    dockerd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    eprintln!(
        "xtask: no container engine answers; starting dockerd with its data in target/engine"
    );
    let child = dockerd.spawn().map_err(|error| format!("dockerd cannot be started: {error}"))?;
    let mut started = Started(Some(child));
    let deadline = Instant::now() + START_MAX;
    while !machine::runs("docker", &["--host", &host, "version"]) {
        if Instant::now() > deadline {
            return Err("dockerd does not answer; the reason is in target/engine/log".to_owned());
        }
        thread::sleep(Duration::from_millis(200));
    }
    let child = started.0.take().ok_or("dockerd has no process")?;
    Ok((host, child))
}

/// Command line of the engine that builds with BuildKit: by its plugin buildx, or older than 23.
fn docker_program() -> Outcome<PathBuf> {
    let builds = |program: &&str| {
        let version = Command::new(program).arg("--version").output();
        // For example `Docker version 20.10.24+dfsg1, build 297e128`.
        let text = version.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
        let major = text.unwrap_or_default();
        let major =
            major.split(' ').nth(2).and_then(|it| it.split('.').next()?.parse::<u32>().ok());
        major.is_some_and(|it| it < 23) || machine::runs(program, &["buildx", "version"])
    };
    let found = ["docker", "/usr/bin/docker"].into_iter().find(builds);
    found.map(PathBuf::from).ok_or_else(|| {
        "docker has no plugin buildx, which builds the images; install it, then repeat the command".to_owned()
    })
}

/// Compose: the plugin of the engine, or the program in `.tools`.
fn compose_program() -> Outcome<Vec<String>> {
    let docker = docker_program()?.to_string_lossy().into_owned();
    if machine::runs(&docker, &["compose", "version"]) {
        return Ok(vec![docker, "compose".to_owned()]);
    }
    let program = run::root().join(".tools/compose/docker-compose");
    if !program.exists() {
        install_compose(&program)?;
    }
    Ok(vec![program.to_string_lossy().into_owned()])
}

/// Compiles compose, in about two minutes. `go install` refuses modules that exclude versions of others.
fn install_compose(program: &Path) -> Outcome {
    if !machine::runs("go", &["version"]) {
        return Err(
            "docker has no plugin compose; install version 2.24 or newer, then repeat the command"
                .to_owned(),
        );
    }
    eprintln!("xtask: docker has no plugin compose; compiling {COMPOSE_VERSION} into .tools");
    let module = format!("{COMPOSE}@{COMPOSE_VERSION}");
    let mut download = Command::new("go");
    download.args(["mod", "download", "-json", &module]).stdin(Stdio::null());
    let output = download.output().map_err(|error| format!("go cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let folder =
        text.lines().find_map(|it| it.trim().strip_prefix("\"Dir\": \"")?.strip_suffix("\","));
    let folder = folder.ok_or_else(|| format!("go cannot download {module}"))?;
    let mut build = Command::new("go");
    build.current_dir(folder).env("CGO_ENABLED", "0").stdin(Stdio::null());
    build
        .args(["build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o"])
        .arg(program)
        .arg("./cmd");
    run::finish(&mut build, &format!("go build {module}"))
}

/// Command of the engine's command line, in the workspace.
pub(super) fn docker() -> Outcome<Command> {
    let engine = ENGINE.get().ok_or("no engine was provided")?;
    let mut command = Command::new(&engine.docker);
    engine.prepare(&mut command);
    Ok(command)
}

/// Command of compose, in the workspace.
pub(super) fn compose() -> Outcome<Command> {
    let engine = ENGINE.get().ok_or("no engine was provided")?;
    let mut command = Command::new(&engine.compose[0]);
    command.args(&engine.compose[1..]);
    engine.prepare(&mut command);
    Ok(command)
}

impl Engine {
    fn prepare(&self, command: &mut Command) {
        command.current_dir(run::root()).stdin(Stdio::null());
        // Without it, engines older than 23 do not build with BuildKit, which has the caches of the
        // Dockerfile.
        command.env("DOCKER_BUILDKIT", "1");
        if let Some(host) = &self.host {
            command.env("DOCKER_HOST", host);
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // SIGTERM: the engine stops its containers and its containerd.
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let _ = child.wait();
        }
    }
}
