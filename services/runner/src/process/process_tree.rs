//! Running sandboxes and containers, possibly started by a previous runner: stopping, freezing and continuing
//! them. The processes of a container are processes of this machine, so they are stopped without its engine,
//! which may be restarting.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::process_table::{ProcessRow, ProcessTable};

/// Time between SIGTERM and SIGKILL.
const TERMINATION_GRACE: Duration = Duration::from_secs(10);

/// Polling interval while waiting for the end of a process.
const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Polling interval while waiting for a sandbox's init process.
const INIT_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Identity of a process: pid and start time, because the kernel reuses pids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ProcessId {
    pid: u32,
    /// Start time in clock ticks since boot.
    started: u64,
}

impl ProcessId {
    fn of(pid: u32) -> Option<Self> {
        let row = ProcessRow::read(pid).filter(|it| !it.is_zombie)?;
        Some(Self { pid, started: row.started })
    }

    fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn signal(self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Container in which a program runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContainerRef {
    /// Id in the engine.
    pub(super) id: String,
    /// Address on which its program listens, in the network of its environment.
    pub(super) address: SocketAddr,
}

/// A sandbox or container with all of its processes. The init process of a container takes the place of
/// `bwrap`. The `bwrap` process ends with the main program; the init process of
/// the pid namespace ends with the last process, and killing it kills all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessTree {
    #[serde(flatten)]
    sandbox: ProcessId,
    /// Init process of the pid namespace; `None` until it is started.
    init: Option<ProcessId>,
    /// File to which `bwrap` writes the pid of the init process and, at the end, the exit code of the main
    /// program (`--json-status-fd`).
    #[serde(default)]
    status_file: PathBuf,
    /// `None` for a sandbox.
    #[serde(default)]
    container: Option<ContainerRef>,
}

impl ProcessTree {
    /// Returns the sandbox of a running process; `None` if the process has ended.
    pub(super) fn of(pid: u32, status_file: PathBuf) -> Option<Self> {
        Some(Self { sandbox: ProcessId::of(pid)?, init: None, status_file, container: None })
    }

    /// Returns a container by its init process; `None` if the process has ended. `status_file` is in the
    /// directory of its temporary files, and does not exist.
    pub(super) fn of_container(
        pid: u32,
        status_file: PathBuf,
        container: ContainerRef,
    ) -> Option<Self> {
        let init = ProcessId::of(pid)?;
        Some(Self { sandbox: init, init: Some(init), status_file, container: Some(container) })
    }

    /// Sets the address of a container's program.
    pub(super) fn at(mut self, address: SocketAddr) -> Self {
        if let Some(container) = &mut self.container {
            container.address = address;
        }
        self
    }

    pub(super) fn container(&self) -> Option<&ContainerRef> {
        self.container.as_ref()
    }

    pub(super) fn pid(&self) -> u32 {
        self.sandbox.pid
    }

    /// Returns the process whose descendants are all processes in the sandbox.
    pub(super) fn root_pid(&self) -> u32 {
        self.init.unwrap_or(self.sandbox).pid
    }

    /// Opens the namespaces of a sandbox, in the order of `names` (files of `/proc/<pid>/ns`). Fails if it
    /// has ended.
    pub(super) fn open_namespaces(&self, names: &[&str]) -> io::Result<Vec<File>> {
        let init = self.init.ok_or(io::ErrorKind::NotFound)?;
        let open = |name: &&str| File::open(format!("/proc/{}/ns/{name}", init.pid));
        let files = names.iter().map(open).collect::<io::Result<_>>()?;
        // The pid was not reused while they were opened.
        if init.is_alive() { Ok(files) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Path of the file to which `bwrap` writes its status; its directory belongs to this sandbox only.
    pub(super) fn status_file(&self) -> &Path {
        &self.status_file
    }

    /// Name of the sandbox; `None` for a process that an earlier version of the runner has started.
    pub(super) fn sandbox_name(&self) -> Option<&str> {
        self.status_file.parent()?.file_name()?.to_str()
    }

    /// Waits until the init process is started or the sandbox has ended. `bwrap` writes the pid before it
    /// starts the main program, so the init process is found even if the main program ends at once and leaves
    /// background processes.
    pub(super) async fn find_init(&mut self) {
        loop {
            let is_alive = self.is_alive();
            if let Some(pid) = self.status("child-pid") {
                self.init = u32::try_from(pid).ok().and_then(ProcessId::of);
                return;
            }
            if !is_alive {
                return;
            }
            tokio::time::sleep(INIT_POLL_INTERVAL).await;
        }
    }

    /// Returns the exit code of the main program, 128 plus the number of the signal that killed it; `None`
    /// while it runs, and if `bwrap` itself was killed.
    pub(super) fn exit_code(&self) -> Option<i32> {
        self.status("exit-code").and_then(|it| i32::try_from(it).ok())
    }

    /// Returns a number that `bwrap` has written to its status file, which contains a sequence of JSON
    /// objects.
    fn status(&self, name: &str) -> Option<i64> {
        let text = fs::read_to_string(&self.status_file).ok()?;
        let objects = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
        objects.map_while(Result::ok).find_map(|it| it.get(name)?.as_i64())
    }

    /// Returns true while the main program runs.
    pub(super) fn is_alive(&self) -> bool {
        self.sandbox.is_alive()
    }

    /// Sends SIGTERM to the programs, and SIGKILL to all processes that have not ended in time.
    pub(super) async fn stop(&self) {
        if self.is_alive() {
            // `bwrap` is left out: it ends when its main program ends.
            self.signal(Signal::TERM, Scope::Programs);
            // A frozen process handles signals only after it is continued.
            self.signal(Signal::CONT, Scope::All);
            self.poll_until(TERMINATION_GRACE, || !self.is_alive()).await;
        }
        self.kill_and_wait().await;
    }

    /// Sends SIGKILL to all processes, and waits until they have ended.
    pub(super) async fn kill_and_wait(&self) {
        self.kill();
        let has_ended = || !self.is_alive() && self.init.is_none_or(|it| !it.is_alive());
        self.poll_until(TERMINATION_GRACE, has_ended).await;
    }

    /// Sends SIGKILL. The kernel kills all processes of a pid namespace when its init process ends.
    pub(super) fn kill(&self) {
        for process in self.init.into_iter().chain([self.sandbox]).filter(|it| it.is_alive()) {
            if self.init.is_none() {
                // The init process may have been started since it was looked for.
                self.signal(Signal::KILL, Scope::Programs);
            }
            process.signal(Signal::KILL);
        }
    }

    /// Sends SIGSTOP to all processes: they get no processor time until [`ProcessTree::thaw`].
    pub(super) fn freeze(&self) {
        // Repeated, because processes may fork while the process table is being read.
        for _ in 0..3 {
            self.signal(Signal::STOP, Scope::All);
        }
    }

    /// Sends SIGCONT to all processes.
    pub(super) fn thaw(&self) {
        self.signal(Signal::CONT, Scope::All);
    }

    async fn poll_until(&self, timeout: Duration, is_reached: impl Fn() -> bool) {
        let polls = timeout.as_millis() / EXIT_POLL_INTERVAL.as_millis();
        for _ in 0..polls {
            if is_reached() {
                return;
            }
            tokio::time::sleep(EXIT_POLL_INTERVAL).await;
        }
    }

    fn signal(&self, signal: Signal, scope: Scope) {
        if !self.is_alive() {
            return;
        }
        for row in ProcessTable::read().tree(self.sandbox.pid) {
            if row.pid != self.sandbox.pid || scope == Scope::All {
                ProcessId { pid: row.pid, started: row.started }.signal(signal);
            }
        }
    }
}

/// Receivers of a signal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// All processes in the sandbox. The init process of the pid namespace is one of them, but the kernel
    /// does not deliver SIGTERM to it.
    Programs,
    /// [`Scope::Programs`] and the `bwrap` process.
    All,
}

/// Kills its process tree when dropped, unless [`OrphanGuard::keep`] was called, so that aborted tasks leave
/// no processes behind.
pub(super) struct OrphanGuard(Option<ProcessTree>);

impl OrphanGuard {
    pub(super) fn new(process: &ProcessTree) -> Self {
        Self(Some(process.clone()))
    }

    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for OrphanGuard {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            process.kill();
        }
    }
}
