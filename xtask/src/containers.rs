//! `cargo xtask containers`: builds the images of `deploy/Dockerfile`, starts `deploy/compose.yaml`, runs the
//! demo against it, and removes everything that it started. Needs a container engine.

mod images;
mod stand_ins;

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use crate::{Outcome, machine, run};

/// Project of compose, so that volumes of a deployment on this machine are not touched.
const PROJECT: &str = "tenantry-check";

/// Containers that are restarted one after the other, each before a run of the demo.
const SERVICES: [&str; 4] = ["identity", "project", "invitation", "audit"];
const OTHERS: [&str; 4] = ["postgres", "nats", "gateway", "runner"];

/// Builds, starts, checks and removes the containers.
pub(crate) fn check() -> Outcome {
    require_engine()?;
    compose(&["config", "--quiet"])?;
    stand_ins::provide()?;
    images::build()?;
    images::check_sizes()?;
    let checked = play();
    // Also after a failure. The volumes are those of this project only.
    let removed = compose(&["down", "--volumes", "--remove-orphans", "--timeout", "10"]);
    checked.and(removed)
}

/// Makes all images of `deploy/compose.yaml`.
pub(crate) fn provide_images() -> Outcome {
    require_engine()?;
    stand_ins::provide()?;
    images::build()
}

/// Gives the images of the suite a version; returns their names.
pub(crate) fn tag_images(version: &str) -> Outcome<Vec<String>> {
    images::tag(version)
}

/// Parses `deploy/compose.yaml` with compose, which needs no engine. Prints a note if compose is not
/// installed.
pub(crate) fn parse() -> Outcome {
    if machine::runs("docker", &["compose", "version"]) {
        return compose(&["--profile", "*", "config", "--quiet"]);
    }
    eprintln!("xtask: docker compose is not installed, so it does not parse deploy/compose.yaml");
    Ok(())
}

/// Starts the containers, and runs the demo: once, and again after the restart of each container.
fn play() -> Outcome {
    let started = Instant::now();
    compose(&["up", "--no-build", "--detach", "--wait", "--wait-timeout", "180"])?;
    eprintln!("xtask: all containers are healthy after {:.1} s", started.elapsed().as_secs_f64());
    demo()?;
    for container in SERVICES.iter().chain(&OTHERS) {
        compose(&["restart", "--timeout", "20", container])?;
        compose(&["up", "--no-build", "--detach", "--wait", "--wait-timeout", "60"])?;
        if SERVICES.contains(container) {
            images::check_start_time(container)?;
        }
        demo()?;
    }
    Ok(())
}

fn demo() -> Outcome {
    let started = Instant::now();
    compose(&["run", "--rm", "--quiet-pull", "demo"])?;
    eprintln!("xtask: the demo took {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Fails unless an engine and compose answer; the message says what to install.
fn require_engine() -> Outcome {
    let remedy = "install Docker Engine 20.10 or newer with the compose plugin 2.24 or newer, and start it; \
                  set DOCKER_HOST if its socket is not at the default path";
    if !machine::runs("docker", &["version"]) {
        return Err(format!("no container engine answers; {remedy}"));
    }
    if !machine::runs("docker", &["compose", "version"]) {
        return Err(format!("docker has no compose plugin; {remedy}"));
    }
    Ok(())
}

/// Runs `docker compose` for this project.
fn compose(arguments: &[&str]) -> Outcome {
    let project = ["compose", "--file", "deploy/compose.yaml", "--project-name", PROJECT];
    docker(&[&project, arguments].concat())
}

/// Runs the engine's command line in the workspace.
pub(crate) fn docker(arguments: &[&str]) -> Outcome {
    let mut command = Command::new("docker");
    command.current_dir(run::root()).args(arguments).stdin(Stdio::null());
    // Without it, older engines do not build with BuildKit, which has the caches of the Dockerfile.
    command.env("DOCKER_BUILDKIT", "1");
    run::finish(&mut command, &format!("docker {}", arguments.join(" ")))
}

/// Runs the engine's command line and returns its output, of both streams.
fn docker_output(arguments: &[&str]) -> Outcome<String> {
    let output = Command::new("docker").current_dir(run::root()).args(arguments).output();
    let output = output.map_err(|error| format!("docker cannot be started: {error}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("`docker {}` failed: {text}", arguments.join(" ")))
    }
}
