//! Images of the suite: build, sizes, and the time until a container is ready.

use super::{PROJECT, docker, docker_output};
use crate::Outcome;

/// Targets of `deploy/Dockerfile`; the image of a target is `tenantry-<target>`.
const TARGETS: [&str; 6] = ["identity", "project", "invitation", "audit", "tools", "runner"];

/// Largest image of a service, in MB. `tools` has the code of all services, and `runner` git, perl and
/// PostgreSQL.
const SERVICE_MB_MAX: u64 = 60;

/// Longest time from the start of a container of a service until it is ready, in seconds.
const READY_S_MAX: f64 = 2.0;

/// Builds all images. The first build compiles the programs, the others use its layers.
pub(super) fn build() -> Outcome {
    for target in TARGETS {
        let image = image(target);
        let mut arguments = vec!["build", "--file", "deploy/Dockerfile", "--target", target];
        arguments.extend(["--build-arg", "PROFILE=container", "--network", "host"]);
        arguments.extend(["--tag", &image, "."]);
        docker(&arguments)?;
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

/// Prints the sizes of the images; fails if one of a service is too large.
pub(super) fn check_sizes() -> Outcome {
    for target in TARGETS {
        let size = docker_output(&["image", "inspect", "--format", "{{.Size}}", &image(target)])?;
        let mb = size.parse::<u64>().map_err(|_| format!("{size} is not a size"))? / 1_000_000;
        eprintln!("xtask: tenantry-{target} has {mb} MB");
        if mb > SERVICE_MB_MAX && !["tools", "runner"].contains(&target) {
            return Err(format!("tenantry-{target} has {mb} MB, more than {SERVICE_MB_MAX}"));
        }
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
