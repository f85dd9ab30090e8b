//! A program of the cluster: started, killed, frozen, and started again when it has ended.

use std::{
    collections::BTreeSet,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::network::{Machine, namespace};

/// A program of the cluster.
pub(crate) struct Program {
    /// Name in the table of faults and of its log file, such as `identity-2`.
    pub(crate) name: String,
    /// Machine on which it runs; `None` in the namespace of the run.
    pub(crate) machine: Option<Machine>,
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// User and group id, if not root.
    pub(crate) account: Option<Account>,
    /// Environment variables.
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) log: PathBuf,
    /// True while a fault keeps it from being started again.
    pub(crate) is_held: bool,
    pub(crate) child: Option<Child>,
    /// Number of ends that no fault caused.
    pub(crate) crashes: usize,
    /// Control group (`cpu`, version 1) of its processes.
    pub(crate) control_group: Option<PathBuf>,
}

/// An account of the system.
#[derive(Clone, Copy)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Program {
    /// Starts it.
    pub(crate) fn start(&mut self) -> Result<()> {
        let mut command = if let Some(machine) = self.machine {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{}", namespace(machine)));
            command.arg("--").arg(&self.path);
            command
        } else {
            Command::new(&self.path)
        };
        command.args(&self.arguments).envs(self.variables.iter().cloned()).current_dir("/");
        if let Some(Account { uid, gid }) = self.account {
            command.uid(uid).gid(gid);
        }
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("{} starts", self.name))?;
        if let Some(group) = &self.control_group {
            std::fs::write(group.join("cgroup.procs"), child.id().to_string())?;
        }
        self.child = Some(child);
        self.is_held = false;
        Ok(())
    }

    /// Starts it again if it has ended without a fault, as an init system does.
    pub(crate) fn supervise(&mut self) -> Result<()> {
        let has_ended = match &mut self.child {
            Some(child) => child.try_wait()?.is_some(),
            None => true,
        };
        if has_ended && !self.is_held {
            self.crashes += 1;
            self.start()?;
        }
        Ok(())
    }

    /// Kills it and its child processes (`SIGKILL`), and keeps it down until [`Self::start`].
    pub(crate) fn kill(&mut self) {
        self.is_held = true;
        // Stopped first, so that a server cannot start further processes.
        self.signal(Signal::STOP);
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// Sends a signal to it and to its child processes.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(child) = &self.child else { return };
        for pid in family(child.id()) {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // It may have ended.
            let _ = pid.map(|it| kill_process(it, signal));
        }
    }
}

/// Ids of a process and of all processes that it has started.
fn family(pid: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([pid]);
    loop {
        let before = found.len();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for id in entries.filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok()) {
            if parent(id).is_some_and(|it| found.contains(&it)) {
                found.insert(id);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Id of the parent of a process: the second field after its name, which is in parentheses.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
