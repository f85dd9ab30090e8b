//! The record of an environment: what should run, and what was started.

use api::project::Observed;
use serde::{Deserialize, Serialize};

use super::process_tree::ProcessTree;

/// Desired state of an environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum DesiredState {
    #[default]
    Absent,
    Running,
    Stopped,
    Paused,
}

/// The record of an environment, kept in one file that is replaced as a whole.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct EnvironmentRecord {
    pub(super) desired: DesiredState,
    /// The deployment that serves, or did last.
    pub(super) release: String,
    pub(super) commit: String,
    pub(super) port: u16,
    pub(super) process: Option<ProcessTree>,
    /// The process of the version before, until it has ended.
    pub(super) previous: Option<ProcessTree>,
    /// Restarts in a row.
    pub(super) restarts: u32,
    /// Reason why it is not restarted any more; empty otherwise.
    pub(super) failure: String,
    /// Deployments that served, the newest last.
    pub(super) releases: Vec<String>,
}

impl EnvironmentRecord {
    /// True if it should run and does.
    pub(super) fn is_running(&self) -> bool {
        self.desired == DesiredState::Running && self.is_alive()
    }

    fn is_alive(&self) -> bool {
        self.process.as_ref().is_some_and(ProcessTree::is_alive)
    }

    /// The state for a report.
    pub(super) fn observed(&self) -> Observed {
        match self.desired {
            DesiredState::Running if self.is_alive() => Observed::Running,
            DesiredState::Paused if self.is_alive() => Observed::Paused,
            DesiredState::Running => Observed::Failed,
            DesiredState::Absent | DesiredState::Stopped | DesiredState::Paused => {
                Observed::Stopped
            }
        }
    }

    /// Records that a program serves.
    pub(super) fn set_running(&mut self, process: ProcessTree, port: u16) {
        self.desired = DesiredState::Running;
        self.process = Some(process);
        self.port = port;
        self.failure = String::new();
    }

    /// Records that another version serves. Returns the process of the one before, which is to be stopped.
    pub(super) fn switch_release(
        &mut self,
        process: ProcessTree,
        port: u16,
        release: &str,
        commit: &str,
    ) -> Option<ProcessTree> {
        self.previous = self.process.take();
        self.set_running(process, port);
        self.restarts = 0;
        release.clone_into(&mut self.release);
        commit.clone_into(&mut self.commit);
        self.releases.retain(|it| it != release);
        self.releases.push(release.to_owned());
        self.previous.clone()
    }

    /// Records that nothing should run. Returns the process, which is to be stopped.
    pub(super) fn set_stopped(&mut self) -> Option<ProcessTree> {
        self.desired = DesiredState::Stopped;
        self.process.take()
    }
}
