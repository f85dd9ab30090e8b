//! Programs of the workspace as processes.

use std::{
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// Path of a program of this workspace. `cargo xtask test` builds all of them before it runs the tests.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this program");
    let folder = test.ancestors().nth(2).expect("the target folder");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built; run `cargo xtask test`", path.display());
    path
}

/// User id and group id of the unprivileged account `nobody`.
pub(crate) const NOBODY: u32 = 65_534;

/// Opens a file to append to it, and creates it if it is missing.
fn open_log(path: &std::path::Path) -> std::fs::File {
    let file = std::fs::File::options().create(true).append(true).open(path);
    file.expect("the log file can be opened")
}

/// A running process; killed with the test.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a program of this workspace; its output is appended to a file.
    pub fn start(name: &str, arguments: &[String], log: &std::path::Path) -> Self {
        let log = open_log(log);
        let child = Command::new(binary(name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the file handle can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("the process starts");
        Self { child }
    }

    /// Starts a program of this workspace in a network namespace (`/run/netns`); needs root.
    pub fn start_in_network(
        namespace: &str,
        name: &str,
        arguments: &[String],
        log: &std::path::Path,
    ) -> Self {
        let log = open_log(log);
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).arg(binary(name)).args(arguments);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("the file handle can be duplicated")).stderr(log);
        Self { child: command.spawn().expect("the process starts") }
    }

    /// Starts a program as `nobody` if the test runs as root.
    pub fn start_unprivileged(
        name: &str,
        arguments: &[String],
        folder: &std::path::Path,
        log: &std::path::Path,
    ) -> Self {
        // `nobody` may not be able to enter the build directory, so the program is copied.
        let program = folder.join(name);
        if !program.exists() {
            // By a process of its own: a copy that this process writes cannot be started while a child that
            // another test is starting holds the file (ETXTBSY).
            let copied = Command::new("cp").arg(binary(name)).arg(&program).status();
            assert!(copied.expect("cp starts").success(), "a copy of the program");
        }
        let log = open_log(log);
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/").env("HOME", folder).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("the file handle can be duplicated")).stderr(log);
        if rustix::process::geteuid().is_root() {
            std::os::unix::process::CommandExt::uid(&mut command, NOBODY);
            std::os::unix::process::CommandExt::gid(&mut command, NOBODY);
            std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY))
                .expect("the owner of the directory can be changed");
        }
        Self { child: command.spawn().expect("the process starts") }
    }

    /// Runs a program of this workspace to its end.
    pub fn run(name: &str, arguments: &[&str]) -> Output {
        Command::new(binary(name))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the process runs")
    }

    /// Runs a program of this workspace to its end, with further environment variables.
    pub fn run_with_env(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        Command::new(binary(name))
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .expect("the process runs")
    }

    /// Memory that the process has in use, in bytes (`VmRSS`).
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the process is running");
        let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
        let kib = line.and_then(|it| it.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("the process uses memory") * 1024
    }

    /// Stops the process with `SIGSTOP` until [`Self::resume`].
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
    }

    /// Continues a suspended process (`SIGCONT`).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("the process has an id"), signal).expect("the process is running");
    }

    /// Kills the process (`SIGKILL`).
    pub fn kill(mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process ends");
    }

    /// Terminates the process (`SIGTERM`) and waits; true if it exits with 0.
    pub fn stop(self) -> bool {
        self.stop_by(Signal::TERM)
    }

    /// Sends a signal and waits for the end; true if the process exits with 0.
    pub fn stop_by(mut self, signal: Signal) -> bool {
        self.signal(signal);
        self.child.wait().expect("the process ends").success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
