//! The log of a task as a stream: what there is, then what comes, until the task has ended.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use api::project as pb;
use chassis::{Access, Db, ProjectGrant, Result, call::Context};
use futures::{Stream, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{State, Task, store};

/// Another process may have written what this one is not woken for.
const LOOK: Duration = Duration::from_secs(1);

/// How often it is asked whether the reader still may.
const ASK: Duration = Duration::from_secs(5);

/// Batches of lines that are read at once.
const BATCHES: i64 = 32;

/// Who reads which log, from where.
pub(super) struct Watch {
    pub(super) db: Db,
    pub(super) access: Access,
    pub(super) grant: ProjectGrant,
    pub(super) context: Arc<Context>,
    pub(super) draining: CancellationToken,
    pub(super) task: Task,
    pub(super) next_line: i64,
    /// What was told of the task.
    pub(super) told: Option<pb::Task>,
    pub(super) ready: VecDeque<pb::WatchTaskLogResponse>,
    pub(super) asked: Instant,
    /// Whether everything was told, or an error.
    pub(super) over: bool,
}

type Answer = Result<pb::WatchTaskLogResponse, Status>;

impl Watch {
    /// The log, as a stream.
    pub(super) fn stream(self) -> impl Stream<Item = Answer> + Send {
        stream::unfold(self, async |mut it| it.next().await.map(|answer| (answer, it)))
    }

    async fn next(&mut self) -> Option<Answer> {
        loop {
            if let Some(answer) = self.ready.pop_front() {
                return Some(Ok(answer));
            }
            if self.over {
                return None;
            }
            let db = self.db.clone();
            let changed = db.changed();
            tokio::pin!(changed);
            // Before it looks, so that nothing comes between.
            changed.as_mut().enable();
            if let Err(error) = self.look().await {
                self.over = true;
                return Some(Err(error.into()));
            }
            if !self.ready.is_empty() || self.over {
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(LOOK) => {}
                () = self.draining.cancelled() => {
                    self.over = true;
                    let message = "this server is going away; ask again from `next_line`";
                    return Some(Err(Status::unavailable(message)));
                }
            }
        }
    }

    /// Reads what is new.
    async fn look(&mut self) -> Result<()> {
        if self.asked.elapsed() > ASK {
            self.access.still(&self.context).await?;
            self.access.also(&self.context, &self.grant, "project.logs.view").await?;
            self.asked = Instant::now();
        }
        // First the task: what it said before its end is there when its end is.
        let task = store::get(&self.db, &self.grant, self.task.id).await?;
        let batches = store::lines_from(&self.db, &task, self.next_line, BATCHES).await?;
        let more = i64::try_from(batches.len()).is_ok_and(|it| it == BATCHES);
        for it in batches {
            self.take(it);
        }
        let now = pb::Task::from(&task);
        if !more && self.told.as_ref() != Some(&now) {
            self.told = Some(now.clone());
            let (first_line, next_line) = (self.next_line, self.next_line);
            let task = Some(now);
            self.ready.push_back(pb::WatchTaskLogResponse {
                first_line,
                next_line,
                task,
                lines: vec![],
            });
        }
        self.over = !more && !matches!(task.state, State::Queued | State::Running);
        Ok(())
    }

    /// What of a batch is not known yet.
    fn take(&mut self, mut batch: store::Lines) {
        let known = usize::try_from(self.next_line - batch.first_line).unwrap_or(0);
        if known >= batch.lines.len() {
            return;
        }
        let lines = batch.lines.split_off(known);
        let first_line = self.next_line.max(batch.first_line);
        self.next_line = first_line + i64::try_from(lines.len()).unwrap_or(0);
        let next_line = self.next_line;
        self.ready.push_back(pb::WatchTaskLogResponse { first_line, lines, next_line, task: None });
    }
}
