//! The log of a task as a stream: what there is, then what comes, until the task has ended.

use api::project as pb;
use chassis::{
    Db, ProjectGrant, Result,
    follow::{Batch, Source, Then},
};

use super::{State, TaskId, store};

/// Batches of lines that are read at once.
const BATCHES: i64 = 32;

/// The log of one task, from a line on.
pub(super) struct TaskLog {
    pub(super) db: Db,
    pub(super) grant: ProjectGrant,
    pub(super) task_id: TaskId,
    pub(super) next_line: i64,
    /// The task as it was sent last.
    pub(super) sent: Option<pb::Task>,
}

impl Source for TaskLog {
    type Message = pb::WatchTaskLogResponse;

    async fn read(&mut self) -> Result<Batch<Self::Message>> {
        // Read the state before the lines: once it is final, all lines are already stored.
        let task = store::get(&self.db, &self.grant, self.task_id).await?;
        let batches = store::lines_from(&self.db, &task, self.next_line, BATCHES).await?;
        let is_full = i64::try_from(batches.len()).is_ok_and(|it| it == BATCHES);
        let mut messages: Vec<_> =
            batches.into_iter().filter_map(|it| self.new_lines(it)).collect();
        if is_full {
            return Ok(Batch { messages, then: Then::Read });
        }
        let now = pb::Task::from(&task);
        if self.sent.as_ref() != Some(&now) {
            self.sent = Some(now.clone());
            messages.push(self.message(self.next_line, vec![], Some(now)));
        }
        let ended = !matches!(task.state, State::Queued | State::Running);
        Ok(Batch { messages, then: if ended { Then::End } else { Then::Wait } })
    }
}

impl TaskLog {
    /// The lines of a batch that were not sent yet.
    fn new_lines(&mut self, mut batch: store::Lines) -> Option<pb::WatchTaskLogResponse> {
        let sent = usize::try_from(self.next_line - batch.first_line).unwrap_or(0);
        if sent >= batch.lines.len() {
            return None;
        }
        let lines = batch.lines.split_off(sent);
        let first_line = self.next_line.max(batch.first_line);
        self.next_line = first_line + i64::try_from(lines.len()).unwrap_or(0);
        Some(self.message(first_line, lines, None))
    }

    fn message(
        &self,
        first_line: i64,
        lines: Vec<String>,
        task: Option<pb::Task>,
    ) -> pb::WatchTaskLogResponse {
        pb::WatchTaskLogResponse { first_line, lines, next_line: self.next_line, task }
    }
}
