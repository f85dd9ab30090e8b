//! Real processes of the suite.

use std::{
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// A program of this workspace. `cargo xtask test` builds them before it runs the tests.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    let folder = test.ancestors().nth(2).expect("the target folder");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built; run `cargo xtask test`", path.display());
    path
}

/// An account without rights.
const NOBODY: u32 = 65_534;

/// A running process; it ends with the test.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a program of this workspace. What it says goes to a file.
    pub fn start(name: &str, arguments: &[String], log: &std::path::Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log file");
        let child = Command::new(binary(name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn()
            .expect("the process starts");
        Self { child }
    }

    /// The same as an account without rights, if the test is root.
    pub fn start_unprivileged(
        name: &str,
        arguments: &[String],
        folder: &std::path::Path,
        log: &std::path::Path,
    ) -> Self {
        // The account may not enter the folder of the workspace.
        let program = folder.join(name);
        if !program.exists() {
            std::fs::copy(binary(name), &program).expect("a copy of the program");
        }
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log file");
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/").env("HOME", folder).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log file")).stderr(log);
        if rustix::process::geteuid().is_root() {
            std::os::unix::process::CommandExt::uid(&mut command, NOBODY);
            std::os::unix::process::CommandExt::gid(&mut command, NOBODY);
            std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY)).expect("a folder");
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

    /// Stands still, as a machine under pressure would, until it goes on.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Goes on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process number"), signal).expect("the process is there");
    }

    /// Kills it, as a crash would.
    pub fn kill(mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process ends");
    }

    /// Asks it to end and waits; answers whether it ended well.
    pub fn stop(mut self) -> bool {
        self.signal(Signal::TERM);
        self.child.wait().expect("the process ends").success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
