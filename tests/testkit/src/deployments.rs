//! Stop of the programs that are still deployed at the end of a test.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

/// Path of Caddy, which `cargo xtask test` installs.
pub fn caddy() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the checkout");
    let program = root.join(".tools/caddy/bin/caddy");
    assert!(program.exists(), "Caddy is not installed; run `cargo xtask test`");
    program
}

/// Kills all deployed programs below a data directory of a suite, because they keep running when it ends.
pub fn stop_deployments(folder: &Path) {
    stop_deployments_of_runner(&folder.join("runner"));
}

/// Kills all deployed programs, the proxy and the PostgreSQL server below the data directory of a runner.
pub fn stop_deployments_of_runner(folder: &Path) {
    stop_proxy(folder);
    let pid_file = folder.join("services/postgres/postmaster.pid");
    let pid_file = std::fs::read_to_string(pid_file).unwrap_or_default();
    let server = pid_file.lines().next().and_then(|line| line.trim().parse().ok());
    if let Some(server) = server.and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(server, rustix::process::Signal::INT);
    }
    let Ok(environments) = std::fs::read_dir(folder) else { return };
    for environment in environments.flatten().map(|it| it.path()) {
        stop_environment(&environment);
    }
}

/// Ends the proxy of a runner, if there is one (`POST /stop` of Caddy).
fn stop_proxy(folder: &Path) {
    let Ok(mut proxy) = UnixStream::connect(folder.join("proxy/run/admin.sock")) else { return };
    let sent = proxy.write_all(b"POST /stop HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
    // The answer follows after the end of its open requests.
    let _ = sent.and_then(|()| proxy.read_to_end(&mut vec![]));
}

/// Kills the sandboxes of an environment with all their processes, and removes its network namespace.
fn stop_environment(environment: &Path) {
    let read = |name: &str| -> serde_json::Value {
        let text = std::fs::read(environment.join(name)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    };
    let record = read("record.json");
    let starting = read("starting");
    for process in [&record["process"], &record["previous"], &starting] {
        // Killing the init process of the pid namespace kills all processes in it, also if `bwrap` has ended.
        for pid in [&process["init"]["pid"], &process["pid"]] {
            let pid = pid.as_i64().and_then(|it| i32::try_from(it).ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
    let id = environment.file_name().unwrap_or_default().to_string_lossy().replace('-', "");
    for controller in ["", "cpu", "memory", "pids"] {
        let groups = Path::new("/sys/fs/cgroup").join(controller).join("tenantry");
        for group in std::fs::read_dir(groups).into_iter().flatten().flatten() {
            if group.file_name().to_string_lossy().replace('-', "").starts_with(&id) {
                let _ = std::fs::remove_dir(group.path());
            }
        }
    }
    if rustix::process::geteuid().is_root() && id.len() == 32 {
        let namespace = format!("tny-{}", &id[16..]);
        let _ = Command::new("ip").args(["netns", "delete", &namespace]).output();
    }
}
