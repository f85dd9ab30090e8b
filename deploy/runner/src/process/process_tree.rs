//! Sandboxes that run, perhaps started by an earlier runner: ending, freezing and continuing them.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::process_table::{ProcessRow, ProcessTable};

/// Time for a program to end after SIGTERM, before SIGKILL.
const TERMINATION_GRACE: Duration = Duration::from_secs(10);

/// Interval of looking whether it has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Interval of looking whether a sandbox is complete.
const INIT_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// A process; its start time tells it from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ProcessId {
    pid: u32,
    /// Clock ticks since boot.
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

/// A sandbox and everything in it. The sandbox ends with its main program; the init process of its pid
/// namespace ends later, with the last process, and takes all others along when it is killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessTree {
    #[serde(flatten)]
    sandbox: ProcessId,
    init: Option<ProcessId>,
}

impl ProcessTree {
    /// The sandbox that a live process is, or will become.
    pub(super) fn of(pid: u32) -> Option<Self> {
        Some(Self { sandbox: ProcessId::of(pid)?, init: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.sandbox.pid
    }

    /// Waits for the init process, which appears when the sandbox is complete. Without one the sandbox has
    /// ended.
    pub(super) async fn find_init(&mut self) {
        while self.init.is_none() && self.is_alive() {
            let table = ProcessTable::read();
            let child = table.tree(self.sandbox.pid).get(1).map(|it| it.pid);
            self.init = child.and_then(ProcessId::of);
            tokio::time::sleep(INIT_POLL_INTERVAL).await;
        }
    }

    /// True while the main program runs.
    pub(super) fn is_alive(&self) -> bool {
        self.sandbox.is_alive()
    }

    /// SIGTERM to the programs, and SIGKILL to everything that has not ended in time.
    pub(super) async fn stop(&self) {
        if self.is_alive() {
            // The sandbox itself only waits for its main program.
            self.signal(Signal::TERM, Scope::Programs);
            // A stopped process handles no signal until it continues.
            self.signal(Signal::CONT, Scope::All);
            self.has_ended_within(TERMINATION_GRACE).await;
        }
        self.kill();
        self.has_ended_within(TERMINATION_GRACE).await;
    }

    /// SIGKILL to everything. The kernel ends a pid namespace with its init process.
    pub(super) fn kill(&self) {
        for process in self.init.into_iter().chain([self.sandbox]).filter(|it| it.is_alive()) {
            if self.init.is_none() {
                self.signal(Signal::KILL, Scope::Programs);
            }
            process.signal(Signal::KILL);
        }
    }

    /// SIGSTOP to everything: no processor time until [`ProcessTree::thaw`].
    pub(super) fn freeze(&self) {
        // A process that was forked between the look and the signal is caught by the next look.
        for _ in 0..3 {
            self.signal(Signal::STOP, Scope::All);
        }
    }

    pub(super) fn thaw(&self) {
        self.signal(Signal::CONT, Scope::All);
    }

    async fn has_ended_within(&self, time: Duration) {
        let polls = time.as_millis() / POLL_INTERVAL.as_millis();
        for _ in 0..polls {
            if !self.is_alive() {
                return;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
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
    /// Everything inside. The kernel keeps SIGTERM from the init process of a pid namespace.
    Programs,
    /// The sandbox, too.
    All,
}

/// Kills its process tree when it is dropped, unless [`OrphanGuard::keep`] was called: work that is given up
/// leaves no process behind.
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
