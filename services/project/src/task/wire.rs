//! Between the contract and the rules.

use api::project as pb;
use chassis::timestamp;

use super::{Kind, State, Task};

impl From<Kind> for pb::TaskKind {
    fn from(it: Kind) -> Self {
        match it {
            Kind::Deploy => Self::Deploy,
            Kind::Stop => Self::Stop,
        }
    }
}

impl From<&Task> for pb::Task {
    fn from(it: &Task) -> Self {
        let state = match it.state {
            State::Queued => pb::TaskState::Queued,
            State::Running => pb::TaskState::Running,
            State::Completed => pb::TaskState::Completed,
            State::Failed => pb::TaskState::Failed,
        };
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            project_id: it.project_id.into(),
            environment_id: it.environment_id.into(),
            kind: pb::TaskKind::from(it.kind).into(),
            state: state.into(),
            progress_percent: it.progress_percent,
            current_step: it.current_step.clone(),
            error_message: it.error_message.clone(),
            triggered_by: it.triggered_by.into(),
            create_time: Some(timestamp(it.created_at)),
            start_time: it.started_at.map(timestamp),
            complete_time: it.completed_at.map(timestamp),
            log_lines: vec![],
        }
    }
}
