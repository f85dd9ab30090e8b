//! Orphaned processes of removed containers. An engine that is killed between the start of a container and
//! its record of the start finds the container as one that was never started, and removes it without ending
//! its processes.

use std::{fs, time::Duration};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Longest wait for the end of killed processes.
const END_TIMEOUT: Duration = Duration::from_secs(10);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Length of the id of a container.
const ID_LEN: usize = 64;

/// Kills the processes in the control groups of a container, which are named after its id, and waits for
/// their end. Does nothing if it has none, which is the usual case.
pub(super) async fn kill(id: &str) -> Result<()> {
    if id.len() != ID_LEN || !id.bytes().all(|it| it.is_ascii_hexdigit()) {
        bail!("{id} is not the id of a container");
    }
    let polls = END_TIMEOUT.as_millis() / POLL_INTERVAL.as_millis();
    for _ in 0..polls {
        let id = id.to_owned();
        let killed = tokio::task::spawn_blocking(move || kill_all(&id)).await;
        match killed.context("the runtime is shutting down")? {
            0 => return Ok(()),
            processes => tracing::info!(processes, "processes of a removed container were killed"),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    bail!("processes of the container {id} do not end");
}

/// Sends SIGKILL to the processes of a container; returns their number.
fn kill_all(id: &str) -> usize {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|it| it.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_of_container(*pid, id) && kill_one(*pid, id)).count()
}

/// Kills a process unless it has ended and its pid names another one.
fn kill_one(pid: i32, id: &str) -> bool {
    let process = Pid::from_raw(pid).and_then(|it| pidfd_open(it, PidfdFlags::empty()).ok());
    process
        .is_some_and(|it| is_of_container(pid, id) && pidfd_send_signal(&it, Signal::KILL).is_ok())
}

/// Returns true if a process that has not ended is in a control group of a container (cgroups(7)). Ended ones
/// stay in groups of version 1 until their parent has read their status; they have no `exe`.
fn is_of_container(pid: i32, id: &str) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    // Paths end with `/<id>` or `/docker-<id>.scope`; a control group of the container may be below.
    let is_in_group = groups.lines().any(|line| line.contains(id));
    is_in_group && fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}
