//! The log of a task as a stream: stored lines first, then new lines and changes of the task, until it is
//! finished.

use api::project as pb;
use chassis::{Db, ProjectGrant, Result};
use project_rules::{
    task::{State, wire::LogMessage},
    types::TaskId,
};
use worker::watch::{Batch, Source, Then};

use crate::store;

/// Number of batches of lines that one read returns.
const BATCHES_MAX: i64 = 32;

/// Position of a stream in the log of a task.
pub(super) struct TaskLog {
    pub(super) db: Db,
    pub(super) grant: ProjectGrant,
    pub(super) task_id: TaskId,
    pub(super) next_line: i64,
    /// State of the task in the last message.
    pub(super) last_sent: Option<pb::Task>,
}

impl Source for TaskLog {
    type Message = LogMessage;

    async fn read(&mut self) -> Result<Batch<Self::Message>> {
        // Read the state before the lines: once it is final, all lines are already stored.
        let task = store::task::get(&self.db, &self.grant, self.task_id).await?;
        let batches = store::task::lines_from(&self.db, &task, self.next_line, BATCHES_MAX).await?;
        let is_full = i64::try_from(batches.len()).is_ok_and(|it| it == BATCHES_MAX);
        let mut messages: Vec<_> =
            batches.into_iter().filter_map(|it| self.new_lines(it)).collect();
        if is_full {
            return Ok(Batch { messages, then: Then::Read });
        }
        let current = pb::Task::from(&task);
        if self.last_sent.as_ref() != Some(&current) {
            self.last_sent = Some(current.clone());
            messages.push(self.message(self.next_line, vec![], Some(current)));
        }
        let is_finished = !matches!(task.state, State::Queued | State::Running);
        Ok(Batch { messages, then: if is_finished { Then::End } else { Then::Wait } })
    }
}

impl TaskLog {
    /// Makes a message of the lines of a batch that were not sent yet; `None` if all of them were.
    fn new_lines(&mut self, mut batch: store::task::Lines) -> Option<LogMessage> {
        let sent_count = usize::try_from(self.next_line - batch.first_line).unwrap_or(0);
        if sent_count >= batch.lines.len() {
            return None;
        }
        let lines = batch.lines.split_off(sent_count);
        let first_line = self.next_line.max(batch.first_line);
        self.next_line = first_line + i64::try_from(lines.len()).unwrap_or(0);
        Some(self.message(first_line, lines, None))
    }

    fn message(&self, first_line: i64, lines: Vec<String>, task: Option<pb::Task>) -> LogMessage {
        LogMessage { first_line, lines, next_line: self.next_line, task }
    }
}
