//! A process that was started earlier, perhaps by an earlier runner.

use std::{fmt, str::FromStr, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};

/// A process group's leader. Its start time tells it from a later process with the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pid: u32,
    started: String,
}

impl Process {
    /// The process with a number, if it lives.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything: state is the first field, start time the twentieth.
        let (_, rest) = stat.rsplit_once(") ")?;
        let started = rest.split(' ').nth(19)?.to_owned();
        (!rest.starts_with('Z')).then_some(Self { pid, started })
    }

    fn lives(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Asks the group to end, and ends it if it does not.
    pub(crate) async fn stop(&self) {
        let Some(group) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return };
        for (signal, tries) in [(Signal::TERM, 100), (Signal::KILL, 100)] {
            if !self.lives() {
                return;
            }
            let _ = kill_process_group(group, signal);
            for _ in 0..tries {
                if !self.lives() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
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
