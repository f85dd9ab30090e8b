//! Images of the suite: build, sizes, and the time until a container is ready.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{PROJECT, docker, docker_output};
use crate::{Outcome, run};

/// Targets of `deploy/Dockerfile`; the image of a target is `tenantry-<target>`.
pub(crate) const TARGETS: [&str; 6] =
    ["identity", "project", "invitation", "audit", "tools", "runner"];

/// Largest image of a service, in MB.
const SERVICE_MB_MAX: u64 = 60;

/// Largest image of the project service, which has git and OpenSSH with their libraries (23 MB).
const PROJECT_MB_MAX: u64 = 75;

/// Images without a limit: `tools` has the code of all services, `runner` git, perl and PostgreSQL.
const LARGE: [&str; 2] = ["tools", "runner"];

/// Longest time from the start of a container of a service until it is ready, in seconds.
const READY_S_MAX: f64 = 2.0;

/// Programs of the suite, which are in the images with their names.
const PROGRAMS: [&str; 6] =
    ["identity", "project", "invitation", "audit", "tenantry", "tenantry-runner"];

/// Origin of the programs in the images.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Programs {
    /// Compiled in the image of the compiler, with the profile `container`.
    Compiled,
    /// Those that `cargo xtask test` has compiled, without their symbols. They are not optimized, and have
    /// fault injection: for a check of everything but their compilation, which takes minutes.
    OfTests,
}

/// Builds all images. The first build compiles the programs, the others use its layers.
pub(super) fn build(programs: Programs) -> Outcome {
    if programs == Programs::OfTests {
        strip_programs_of_tests(&run::root())?;
    }
    let build = |target| build_target(target, programs, &["--tag", &image(target)]);
    TARGETS.into_iter().try_for_each(build)
}

/// Builds all images from the workspace in a folder.
pub(super) fn build_from(workspace: &Path, programs: Programs) -> Outcome {
    if programs == Programs::OfTests {
        // In the same folder of artifacts, so that dependencies are not compiled again.
        let mut cargo = run::cargo_command();
        cargo.current_dir(workspace).env("CARGO_TARGET_DIR", run::root().join("target"));
        run::finish(cargo.args(["build", "--workspace", "--bins"]), "cargo build")?;
        strip_programs_of_tests(workspace)?;
    }
    let context = context(programs, workspace);
    let context = context.to_string_lossy();
    let build = |target| docker_build(target, programs, &context, &["--tag", &image(target)]);
    TARGETS.into_iter().try_for_each(build)
}

/// Builds a target of the Dockerfile.
fn build_target(target: &str, programs: Programs, output: &[&str]) -> Outcome {
    let context = context(programs, Path::new("."));
    docker_build(target, programs, &context.to_string_lossy(), output)
}

/// Folder that is sent to the engine.
fn context(programs: Programs, workspace: &Path) -> PathBuf {
    match programs {
        Programs::Compiled => workspace.to_owned(),
        Programs::OfTests => workspace.join("target/programs"),
    }
}

fn docker_build(target: &str, programs: Programs, context: &str, output: &[&str]) -> Outcome {
    let origin = match programs {
        Programs::Compiled => "PROGRAMS=compiled",
        Programs::OfTests => "PROGRAMS=prebuilt",
    };
    let mut arguments = vec!["build", "--file", "deploy/Dockerfile", "--target", target];
    arguments.extend(["--build-arg", "PROFILE=container", "--build-arg", origin]);
    arguments.extend(["--network", "host"]);
    docker(&[&arguments, output, &[context]].concat())
}

/// Copies the programs of the tests to `target/programs` of a workspace, without symbols.
fn strip_programs_of_tests(workspace: &Path) -> Outcome {
    let compiled = run::root().join("target/debug");
    let folder = workspace.join("target/programs");
    fs::create_dir_all(&folder)
        .map_err(|error| format!("cannot create target/programs: {error}"))?;
    for program in PROGRAMS {
        let (from, to) = (compiled.join(program), folder.join(program));
        run::program(Path::new("strip"), &["-o", &to.to_string_lossy(), &from.to_string_lossy()])?;
    }
    Ok(())
}

/// Gives the images a version; returns their names.
pub(super) fn tag(version: &str) -> Outcome<Vec<String>> {
    let names = TARGETS.map(|target| (image(target), format!("{}:{version}", image(target))));
    for (image, versioned) in &names {
        docker(&["tag", image, versioned])?;
    }
    Ok(names.map(|(_, versioned)| versioned).into())
}

/// Prints the sizes of the images; fails if one of a service with optimized programs is too large.
pub(super) fn check_sizes(programs: Programs) -> Outcome {
    for target in TARGETS {
        let size = docker_output(&["image", "inspect", "--format", "{{.Size}}", &image(target)])?;
        let mb = size.parse::<u64>().map_err(|_| format!("{size} is not a size"))? / 1_000_000;
        eprintln!("xtask: tenantry-{target} has {mb} MB");
        let limit = if target == "project" { PROJECT_MB_MAX } else { SERVICE_MB_MAX };
        let is_limited = programs == Programs::Compiled && !LARGE.contains(&target);
        if is_limited && mb > limit {
            return Err(format!("tenantry-{target} has {mb} MB, more than {limit}"));
        }
    }
    Ok(())
}

/// Runs git in the image of the project service: it must find what it needs for HTTPS and for SSH, and fail
/// only because no server listens.
pub(super) fn check_git() -> Outcome {
    let image = image("project");
    for (url, expected) in [
        ("https://localhost:1/shop.git", "Failed to connect"),
        ("ssh://git@localhost:1/shop.git", "Connection refused"),
    ] {
        let run = ["run", "--rm", "--network", "host", "--read-only", "--entrypoint", "git"];
        let git = docker_output(&[&run[..], &[&image, "ls-remote", url]].concat());
        if !git.as_ref().is_err_and(|it| it.contains(expected)) {
            return Err(format!("git ls-remote {url} in {image}: {git:?}"));
        }
    }
    // The agent keeps the private key of a test.
    let run = [
        "run",
        "--rm",
        "--network",
        "none",
        "--tmpfs",
        "/tmp",
        "--read-only",
        "--entrypoint",
        "ssh-agent",
        &image,
    ];
    let agent = docker_output(&[&run[..], &["sh", "-c", "ssh-add -l"]].concat());
    if !agent.as_ref().is_err_and(|it| it.contains("no identities")) {
        return Err(format!("ssh-agent in {image}: {agent:?}"));
    }
    Ok(())
}

/// Writes the bills of materials to `target/sbom`; fails if one of a compiled program is missing or empty.
pub(super) fn check_bill_of_materials(programs: Programs) -> Outcome {
    build_target("sbom", programs, &["--output", "target/sbom"])?;
    if programs == Programs::OfTests {
        return Ok(());
    }
    for program in PROGRAMS {
        let file = format!("target/sbom/{program}.cdx.json");
        let text = fs::read_to_string(run::root().join(&file));
        let text = text.map_err(|error| format!("cannot read {file}: {error}"))?;
        let components = text.matches("\"bom-ref\"").count();
        if !text.contains("\"CycloneDX\"") || !text.contains("\"pkg:cargo/tonic@") {
            return Err(format!("{file} does not contain the dependencies of {program}"));
        }
        eprintln!("xtask: the bill of materials of {program} has {components} components");
    }
    Ok(())
}

/// Prints the time from the start of a container until its service has logged that it is ready; fails if it
/// is too long. The database and the keys exist, because compose starts them first.
pub(super) fn check_start_time(service: &str) -> Outcome {
    let container = format!("{PROJECT}-{service}-1");
    let started = docker_output(&["inspect", "--format", "{{.State.StartedAt}}", &container])?;
    let logs = docker_output(&["logs", "--timestamps", &container])?;
    let ready = logs.lines().rfind(|line| line.contains(r#""message":"ready""#));
    let ready = ready.and_then(|line| line.split_whitespace().next());
    let ready = ready.ok_or_else(|| format!("{container} has not logged that it is ready"))?;
    let seconds = second_of_day(ready)? - second_of_day(&started)?;
    // Midnight can be between the two.
    let seconds = seconds.rem_euclid(86_400.0);
    eprintln!("xtask: {service} is ready {seconds:.2} s after the start of its container");
    if seconds <= READY_S_MAX {
        Ok(())
    } else {
        Err(format!("{service} needs {seconds:.2} s to be ready, more than {READY_S_MAX} s"))
    }
}

/// Seconds since midnight (UTC) of an RFC 3339 time, for example `2026-11-22T12:04:47.031277Z`.
fn second_of_day(time: &str) -> Outcome<f64> {
    let parse = || {
        let clock = time.split_once('T')?.1.trim_end_matches('Z');
        let mut parts = clock.split(':').map(str::parse::<f64>);
        let (hours, minutes, seconds) =
            (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
        Some(hours * 3_600.0 + minutes * 60.0 + seconds)
    };
    parse().ok_or_else(|| format!("{time} is not an RFC 3339 time"))
}

fn image(target: &str) -> String {
    format!("tenantry-{target}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_of_the_day_has_a_fraction() {
        assert_eq!(second_of_day("2026-11-22T12:04:47.5Z"), Ok(43_487.5));
        assert!(second_of_day("2026-11-22").is_err());
    }
}
