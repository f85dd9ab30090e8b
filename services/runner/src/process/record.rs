//! Record of an environment: desired state, deployed version and running process.

use api::project::Observed;
use serde::{Deserialize, Serialize};

use super::{
    process_tree::ProcessTree,
    restart::{RestartHistory, unix_seconds},
};

/// Desired state of an environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum DesiredState {
    #[default]
    Absent,
    Running,
    Stopped,
    Paused,
}

/// Record of an environment, stored in a file that is replaced atomically.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct EnvironmentRecord {
    pub(super) desired: DesiredState,
    /// Deployment that is running, or was last.
    pub(super) release: String,
    pub(super) commit: String,
    /// Port of the program; 0 before its first start.
    pub(super) port: u16,
    pub(super) process: Option<ProcessTree>,
    /// Process of the replaced version, until it has ended.
    pub(super) previous: Option<ProcessTree>,
    /// Earlier runners stored a number under the name `restarts`, which is ignored.
    #[serde(rename = "restart_history")]
    pub(super) restarts: RestartHistory,
    /// Reason why the program is no longer restarted; empty otherwise.
    pub(super) failure: String,
    /// Deployments that were healthy, the newest last.
    pub(super) releases: Vec<String>,
}

/// Number of versions kept for rollbacks, including the running one.
const RELEASES_MAX: usize = 4;

impl EnvironmentRecord {
    /// Returns the deployments that are kept for rollbacks, the newest last.
    pub(super) fn kept_releases(&self) -> &[String] {
        &self.releases[self.releases.len().saturating_sub(RELEASES_MAX)..]
    }

    /// Returns true if the desired state is Running and the program is alive.
    pub(super) fn is_running(&self) -> bool {
        self.desired == DesiredState::Running && self.is_alive()
    }

    fn is_alive(&self) -> bool {
        self.process.as_ref().is_some_and(ProcessTree::is_alive)
    }

    /// Returns the actual state; `None` if nothing was ever deployed.
    pub(super) fn observed_if_deployed(&self) -> Option<Observed> {
        (self.desired != DesiredState::Absent).then(|| self.observed())
    }

    /// Returns the actual state for a report.
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

    /// Records a program that a task has started.
    pub(super) fn set_started(&mut self, process: ProcessTree, port: u16) {
        self.restarts = self.restarts.started(unix_seconds());
        self.set_running(process, port);
    }

    /// Records a running program.
    pub(super) fn set_running(&mut self, process: ProcessTree, port: u16) {
        self.desired = DesiredState::Running;
        self.process = Some(process);
        self.port = port;
        self.failure = String::new();
    }

    /// Records that another process of the same version is running. The caller must stop the replaced one,
    /// [`Self::previous`].
    pub(super) fn switch_process(&mut self, process: ProcessTree, port: u16) {
        self.previous = self.process.take();
        self.set_started(process, port);
    }

    /// Records that another version is running. The caller must stop the replaced process,
    /// [`Self::previous`].
    pub(super) fn switch_release(
        &mut self,
        process: ProcessTree,
        port: u16,
        release: &str,
        commit: &str,
    ) {
        self.switch_process(process, port);
        release.clone_into(&mut self.release);
        commit.clone_into(&mut self.commit);
        self.releases.retain(|it| it != release);
        self.releases.push(release.to_owned());
    }

    /// Records that nothing should run. Returns the process, which the caller must stop.
    pub(super) fn set_stopped(&mut self) -> Option<ProcessTree> {
        self.desired = DesiredState::Stopped;
        self.process.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A runner takes over the programs that an earlier version of it has started.
    #[test]
    fn the_record_of_an_earlier_runner_is_read() {
        let text = r#"{"desired":"Running","release":"r","commit":"c","port":4000,
            "process":{"pid":1,"started":2,"init":{"pid":3,"started":4}},"previous":null,
            "restarts":1,"failure":"","releases":["r"]}"#;
        let record: EnvironmentRecord = serde_json::from_str(text).unwrap();
        assert_eq!((record.desired, record.port), (DesiredState::Running, 4000));
        assert_eq!(record.process.map(|it| it.pid()), Some(1));
        assert_eq!(record.restarts, RestartHistory::default());
    }
}
