//! `cargo xtask containers`: builds the images of `deploy/Dockerfile`, starts `deploy/compose.yaml`, runs the
//! demo against it while containers are killed, and removes everything that it started.

pub(crate) mod engine;
mod images;
mod stand_ins;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{Outcome, machine, run};

pub(crate) use images::{Programs, TARGETS};

/// Project of compose, so that volumes of a deployment on this machine are not touched.
const PROJECT: &str = "tenantry-check";

/// Differences of the checked deployment.
const OVERRIDE: &str = "target/containers/override.yaml";

/// Containers that are killed one after the other, each during a run of the demo.
const SERVICES: [&str; 4] = ["identity", "project", "invitation", "audit"];
const OTHERS: [&str; 6] = ["discovery", "postgres", "nats", "mail", "gateway", "runner"];

/// Second replicas, of the profile `replicas`.
const REPLICAS: [&str; 4] = ["identity-2", "project-2", "invitation-2", "audit-2"];

/// Time from the start of a demo until a container is killed.
const KILL_AFTER: Duration = Duration::from_secs(2);

/// Time in which a demo must succeed again after all containers are healthy: the gateway leaves a replica
/// that did not accept a connection for five seconds.
const RECOVERY_MAX: Duration = Duration::from_secs(15);

/// Longest time from a kill until all containers are healthy again.
const HEALTHY_MAX: &str = "60";

/// Containers that are killed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kills {
    /// Those of the services.
    Services,
    /// All, also those of the profile `replicas`; takes some minutes more.
    All,
}

/// Builds, starts, checks and removes the containers.
pub(crate) fn check(programs: Programs, kills: Kills) -> Outcome {
    let _engine = engine::provide()?;
    write_override()?;
    compose(&["--profile", "*", "config", "--quiet"])?;
    stand_ins::provide(programs)?;
    images::build(programs)?;
    images::check_sizes(programs)?;
    images::check_bill_of_materials(programs)?;
    images::check_git()?;
    let checked = play(kills);
    if checked.is_err() {
        compose(&["--profile", "*", "logs", "--no-color", "--tail", "30"])?;
    }
    // Also after a failure. The volumes are those of this project only.
    let down = ["--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "10"];
    let removed = compose(&down);
    checked.and(removed)
}

/// Checks the containers with the programs of the tests, if this machine has an engine or can start one.
/// Prints the reason if it cannot.
pub(crate) fn check_if_possible() -> Outcome {
    match engine::is_possible() {
        Ok(()) => check(Programs::OfTests, Kills::Services),
        Err(reason) => {
            eprintln!("xtask: SKIPPED: the containers are not checked: {reason}");
            Ok(())
        }
    }
}

/// Makes all images of `deploy/compose.yaml`, with an engine that was provided.
pub(crate) fn provide_images(programs: Programs) -> Outcome {
    stand_ins::provide(programs)?;
    images::build(programs)
}

/// Builds the images of the suite from the workspace in a folder.
pub(crate) fn build_images_of(workspace: &Path, programs: Programs) -> Outcome {
    images::build_from(workspace, programs)
}

/// Gives the images of the suite a version; returns their names.
pub(crate) fn tag_images(version: &str) -> Outcome<Vec<String>> {
    images::tag(version)
}

/// Parses `deploy/compose.yaml` with compose, which needs no engine. Prints a note if compose is not
/// installed.
pub(crate) fn parse() -> Outcome {
    if !machine::runs("docker", &["compose", "version"]) {
        eprintln!(
            "xtask: docker compose is not installed, so it does not parse deploy/compose.yaml"
        );
        return Ok(());
    }
    let arguments =
        ["compose", "--file", "deploy/compose.yaml", "--profile", "*", "config", "--quiet"];
    let mut command = Command::new("docker");
    command.current_dir(run::root()).args(arguments).stdin(Stdio::null());
    run::finish(&mut command, &format!("docker {}", arguments.join(" ")))
}

/// Starts the containers, and runs demos in a loop while one container after the other is killed.
fn play(kills: Kills) -> Outcome {
    let started = Instant::now();
    compose(&["up", "--no-build", "--detach", "--wait", "--wait-timeout", "180"])?;
    eprintln!("xtask: all containers are healthy after {:.1} s", started.elapsed().as_secs_f64());
    demo()?;
    let others = if kills == Kills::All { &OTHERS[..] } else { &[] };
    for container in SERVICES.iter().chain(others) {
        kill_during_demo(container)?;
        if SERVICES.contains(container) {
            images::check_start_time(container)?;
        }
        demo_within(RECOVERY_MAX)?;
    }
    if kills == Kills::Services {
        return Ok(());
    }
    let replicas = ["--profile", "replicas", "up", "--no-build", "--detach", "--wait"];
    compose(&[&replicas[..], &["--wait-timeout", "60"]].concat())?;
    for container in REPLICAS {
        kill_during_demo(container)?;
    }
    demo()
}

/// Kills the process of a container during a demo, and waits until the engine has started it again. The demo
/// may fail, and prints whether it did.
fn kill_during_demo(container: &str) -> Outcome {
    let mut command = engine::compose()?;
    command.args(project()).args(["run", "--rm", "--quiet-pull", "demo"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut demo =
        command.spawn().map_err(|error| format!("compose cannot be started: {error}"))?;
    thread::sleep(KILL_AFTER);
    let name = format!("{PROJECT}-{container}-1");
    let state = |format: &str| docker_output(&["inspect", "--format", format, &name]);
    let (pid, starts) = (state("{{.State.Pid}}")?, state("{{.RestartCount}}")?);
    let killed = Instant::now();
    // Not `docker kill`, after which the engine does not start the container again.
    let killed_by_pid = machine::runs("kill", &["-KILL", &pid]);
    if !killed_by_pid {
        docker(&["kill", &name])?;
    }
    let status = demo.wait().map_err(|error| error.to_string())?;
    while killed_by_pid && state("{{.RestartCount}}")? == starts {
        thread::sleep(Duration::from_millis(100));
    }
    let mut up = vec!["up", "--no-build", "--detach", "--wait", "--wait-timeout", HEALTHY_MAX];
    if REPLICAS.contains(&container) {
        up.splice(..0, ["--profile", "replicas"]);
    }
    compose(&up)?;
    let seconds = killed.elapsed().as_secs_f64();
    let result = if status.success() { "succeeded" } else { "failed" };
    eprintln!(
        "xtask: {container} was killed; all containers were healthy within {seconds:.1} s, with the demo \
         beside it, which {result}"
    );
    Ok(())
}

/// Repeats the demo until it succeeds; fails if none does in this time.
fn demo_within(limit: Duration) -> Outcome {
    let started = Instant::now();
    let mut outcome = demo();
    while outcome.is_err() && started.elapsed() < limit {
        outcome = demo();
    }
    outcome
}

fn demo() -> Outcome {
    let started = Instant::now();
    compose(&["run", "--rm", "--quiet-pull", "demo"])?;
    eprintln!("xtask: the demo took {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Arguments that select the files and the project.
fn project() -> [&'static str; 6] {
    ["--file", "deploy/compose.yaml", "--file", OVERRIDE, "--project-name", PROJECT]
}

/// Writes the differences from the deployment: no limit of sign-ins, because all demos come from one address.
fn write_override() -> Outcome {
    let environment = "{ environment: { TENANTRY_SIGN_INS_MAX: \"0\" } }";
    let services = SERVICES.iter().chain(&REPLICAS).map(|it| format!("  {it}: {environment}\n"));
    let text = format!("services:\n{}", services.collect::<String>());
    let path = run::root().join(OVERRIDE);
    fs::create_dir_all(path.parent().unwrap_or(&path))
        .and_then(|()| fs::write(&path, text))
        .map_err(|error| format!("cannot write {OVERRIDE}: {error}"))
}

/// Runs compose for this project.
fn compose(arguments: &[&str]) -> Outcome {
    let mut command = engine::compose()?;
    command.args(project()).args(arguments);
    run::finish(&mut command, &format!("compose {}", arguments.join(" ")))
}

/// Runs the engine's command line in the workspace.
pub(crate) fn docker(arguments: &[&str]) -> Outcome {
    let mut command = engine::docker()?;
    run::finish(command.args(arguments), &format!("docker {}", arguments.join(" ")))
}

/// Runs the engine's command line and returns its output, of both streams.
fn docker_output(arguments: &[&str]) -> Outcome<String> {
    let output = engine::docker()?.args(arguments).output();
    let output = output.map_err(|error| format!("docker cannot be started: {error}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("`docker {}` failed: {text}", arguments.join(" ")))
    }
}
