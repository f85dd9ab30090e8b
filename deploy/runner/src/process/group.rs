//! A process with all that it started, perhaps by an earlier runner.

use std::{fmt, str::FromStr, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

/// How long a program may take to end by itself.
const GRACE: Duration = Duration::from_secs(10);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// A process group's leader. Its start time tells it from a later process with the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    started: String,
}

impl Process {
    /// The process with a number, if it lives.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything: state is the first field, start time the twentieth.
        let (_, rest) = stat.rsplit_once(") ")?;
        let started = rest.split(' ').nth(19)?.to_owned();
        (!rest.starts_with('Z')).then_some(Self { pid, started })
    }

    pub(super) fn lives(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    fn group(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group() {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Asks the group to end, and ends it if it does not.
    pub(super) async fn stop(&self) {
        if !self.lives() {
            return;
        }
        self.signal(Signal::TERM);
        // What is frozen hears nothing.
        self.signal(Signal::CONT);
        let tries = GRACE.as_millis() / LOOK.as_millis();
        for _ in 0..tries {
            if !self.lives() {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        // Its children may be slower, or deaf.
        self.signal(Signal::KILL);
        for _ in 0..tries {
            if !self.lives() {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// No processor time for it, until it is thawed.
    pub(super) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(super) fn thaw(&self) {
        self.signal(Signal::CONT);
    }
}

/// A group that ends with this value, unless it is kept: work that is given up leaves nothing behind.
pub(super) struct Stray(Option<Process>);

impl Stray {
    pub(super) fn new(process: &Process) -> Self {
        Self(Some(process.clone()))
    }

    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        if let Some(process) = self.0.as_ref().filter(|it| it.lives()) {
            process.signal(Signal::KILL);
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.started)
    }
}

impl FromStr for Process {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pid, started) = text.trim().split_once(' ').ok_or(())?;
        Ok(Self { pid: pid.parse().map_err(|_| ())?, started: started.to_owned() })
    }
}
