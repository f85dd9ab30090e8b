//! Events of tasks. Each transition of each kind has its own event, so that the audit log can be filtered by
//! action.

use TaskTransition::{Cancelled, Completed, Failed, Queued};
use api::project as pb;
use chassis::Changed;

use super::Environment;
use crate::task::{Kind, Task};

/// Transition of a task that changes its environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskTransition {
    Queued,
    Completed,
    Failed,
    Cancelled,
}

impl Environment {
    /// Pairs an environment and its task with the event of a transition.
    pub fn with_task_event(
        self,
        before: Option<pb::Environment>,
        task: Task,
        transition: TaskTransition,
    ) -> Changed<(Self, Task)> {
        let after = Some((&self).into());
        let target = self.event_target();
        let kind = task.kind;
        let wire_task = Some((&task).into());
        macro_rules! event {
            ($event:ident) => {
                Changed::new((self, task), &pb::$event { before, after, task: wire_task }, target)
            };
        }
        match (transition, kind) {
            (Queued, Kind::Deploy) => event!(DeploymentRequested),
            (Queued, Kind::Rollback) => event!(EnvironmentRollbackRequested),
            (Queued, Kind::Promote) => event!(EnvironmentPromotionRequested),
            (Queued, Kind::Start) => event!(EnvironmentStartRequested),
            (Queued, Kind::Stop) => event!(EnvironmentStopRequested),
            (Queued, Kind::Restart) => event!(EnvironmentRestartRequested),
            (Queued, Kind::Pause) => event!(EnvironmentPauseRequested),
            (Queued, Kind::Resume) => event!(EnvironmentResumeRequested),
            (Queued, Kind::Sync) => event!(EnvironmentSyncRequested),
            (Queued, Kind::Clone) => event!(EnvironmentCloneRequested),
            (Queued, Kind::Destroy) => event!(EnvironmentDestroyRequested),
            (Queued, Kind::Provision) => event!(EnvironmentProvisionRequested),
            (Queued, Kind::UpdateModules) => event!(EnvironmentModulesUpdateRequested),
            (Completed, Kind::Deploy | Kind::Rollback | Kind::Promote) => {
                event!(DeploymentCompleted)
            }
            (Completed, Kind::Destroy) => {
                let event = pb::EnvironmentDestroyed { before, leaked: false, task: wire_task };
                Changed::new((self, task), &event, target)
            }
            (Completed, Kind::Start) => event!(EnvironmentStarted),
            (Completed, Kind::Stop) => event!(EnvironmentStopped),
            (Completed, Kind::Restart) => event!(EnvironmentRestarted),
            (Completed, Kind::Pause) => event!(EnvironmentPaused),
            (Completed, Kind::Resume) => event!(EnvironmentResumed),
            (Completed, Kind::Sync) => event!(EnvironmentSynced),
            (Completed, Kind::Clone) => event!(EnvironmentCloned),
            (Completed, Kind::Provision) => event!(EnvironmentProvisioned),
            (Completed, Kind::UpdateModules) => event!(EnvironmentModulesUpdated),
            (Failed, Kind::Deploy | Kind::Rollback | Kind::Promote) => event!(DeploymentFailed),
            (Failed, Kind::Start) => event!(EnvironmentStartFailed),
            (Failed, Kind::Stop) => event!(EnvironmentStopFailed),
            (Failed, Kind::Restart) => event!(EnvironmentRestartFailed),
            (Failed, Kind::Pause) => event!(EnvironmentPauseFailed),
            (Failed, Kind::Resume) => event!(EnvironmentResumeFailed),
            (Failed, Kind::Sync) => event!(EnvironmentSyncFailed),
            (Failed, Kind::Clone) => event!(EnvironmentCloneFailed),
            (Failed, Kind::Destroy) => event!(EnvironmentDestroyFailed),
            (Failed, Kind::Provision) => event!(EnvironmentProvisionFailed),
            (Failed, Kind::UpdateModules) => event!(EnvironmentModulesUpdateFailed),
            (Cancelled, _) => event!(TaskCancelled),
        }
    }
}
