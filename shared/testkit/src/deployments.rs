//! Ending what a suite has deployed.

use std::path::Path;

/// What was deployed outlives the suite; a test leaves nothing behind.
pub fn stop_deployments(folder: &Path) {
    let databases = folder.join("runner/services/postgres/postmaster.pid");
    let databases = std::fs::read_to_string(databases).unwrap_or_default();
    let server = databases.lines().next().and_then(|it| it.trim().parse().ok());
    if let Some(server) = server.and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(server, rustix::process::Signal::INT);
    }
    let Ok(environments) = std::fs::read_dir(folder.join("runner")) else { return };
    for home in environments.flatten().map(|it| it.path()) {
        let state = std::fs::read(home.join("state.json")).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap_or_default();
        let starting = std::fs::read_to_string(home.join("starting")).unwrap_or_default();
        let starting = starting.split(' ').next().and_then(|it| it.parse().ok());
        let known = ["process", "previous"].map(|it| state[it]["pid"].as_i64());
        let known = known.into_iter().flatten().filter_map(|it| i32::try_from(it).ok());
        for pid in known.chain(starting).filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}
