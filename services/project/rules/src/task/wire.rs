//! Conversion between messages of the contract and tasks.

use api::project as pb;
use chassis::timestamp;

use super::{Cause, Kind, Observed, State, Task};
use crate::types::optional_id_text;

impl From<Kind> for pb::TaskKind {
    fn from(it: Kind) -> Self {
        match it {
            Kind::Deploy => Self::Deploy,
            Kind::Start => Self::Start,
            Kind::Stop => Self::Stop,
            Kind::Restart => Self::Restart,
            Kind::Pause => Self::Pause,
            Kind::Resume => Self::Resume,
            Kind::Sync => Self::Sync,
            Kind::Rollback => Self::Rollback,
            Kind::Clone => Self::Clone,
            Kind::Promote => Self::Promote,
            Kind::Destroy => Self::Destroy,
            Kind::Provision => Self::Provision,
            Kind::UpdateModules => Self::UpdateModules,
        }
    }
}

/// UNSPECIFIED is `None`: the runner has not observed the program.
pub fn observed(it: pb::Observed) -> Option<Observed> {
    match it {
        pb::Observed::Unspecified => None,
        pb::Observed::Running => Some(Observed::Running),
        pb::Observed::Stopped => Some(Observed::Stopped),
        pb::Observed::Failed => Some(Observed::Failed),
        pb::Observed::Paused => Some(Observed::Paused),
    }
}

impl From<Observed> for pb::Observed {
    fn from(it: Observed) -> Self {
        match it {
            Observed::Running => Self::Running,
            Observed::Stopped => Self::Stopped,
            Observed::Failed => Self::Failed,
            Observed::Paused => Self::Paused,
        }
    }
}

impl From<State> for pb::TaskState {
    fn from(it: State) -> Self {
        match it {
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Completed => Self::Completed,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

impl From<&Task> for pb::Task {
    fn from(it: &Task) -> Self {
        let trigger = match it.cause {
            Cause::User => pb::TaskTrigger::User,
            Cause::Push => pb::TaskTrigger::Push,
            Cause::System => pb::TaskTrigger::System,
        };
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            project_id: it.project_id.into(),
            environment_id: it.environment_id.into(),
            kind: pb::TaskKind::from(it.kind).into(),
            state: pb::TaskState::from(it.state).into(),
            progress_percent: it.progress_percent,
            current_step: it.current_step.clone(),
            error_message: it.error_message.clone(),
            triggered_by: it.triggered_by.into(),
            create_time: Some(timestamp(it.created_at)),
            start_time: it.started_at.map(timestamp),
            complete_time: it.completed_at.map(timestamp),
            log_lines: vec![],
            trigger: trigger.into(),
            branch: it.branch.clone(),
            commit: it.commit.clone(),
            modules: it.modules.clone(),
            source_environment_id: optional_id_text(it.source_environment_id),
            deployment_id: optional_id_text(it.deployment_id),
            retry_of: optional_id_text(it.retry_of),
            rolled_back: it.rolled_back,
            cancel_requested: it.cancel_requested,
            steps_completed: it.steps_completed,
            total_steps: it.total_steps,
            commit_subject: it.commit_subject.clone(),
            commit_author: it.commit_author.clone(),
        }
    }
}

/// Message of the stream of a task's log.
pub type LogMessage = pb::WatchTaskLogResponse;
