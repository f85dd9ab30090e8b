//! Delivery of logs to a reader: the lines that are stored, then new ones, also of later starts.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use anyhow::Result;
use api::project::{LogLine, LogQuery};
use futures::{StreamExt, TryStreamExt};
use prost_types::Timestamp;
use tokio::task::{JoinSet, spawn_blocking};

use super::{
    ProgramLog,
    open::{OpenLogs, POLL_INTERVAL},
    query::{LineSink, ReaderGone, Selection, StartLog, batches, order},
    segment::Position,
};
use crate::{
    docker::{ContainerOutput, OutputQuery},
    process::directory::EnvironmentDir,
};

/// Size of a new part after which there may be more lines at once, in bytes.
const LARGE_PART_BYTES: usize = 64 << 10;

/// Number of starts that are followed at a time: a version starts beside the one that serves.
const FOLLOWED_MAX: usize = 2;

/// Number of lines of a container that are sent together.
const CONTAINER_LINES: usize = 500;

/// A query to the logs of an environment.
pub(crate) struct LogReader<'a> {
    pub(crate) environment: &'a EnvironmentDir,
    pub(crate) engine: Option<ContainerOutput>,
    pub(crate) open_logs: &'a OpenLogs,
    pub(crate) query: &'a LogQuery,
    pub(crate) sink: LineSink,
}

/// Place in the log of a start after which new lines are.
#[derive(Clone, Copy, Default)]
pub(super) enum Place {
    #[default]
    Begin,
    File(Position),
    /// Time of the last line of a container.
    Time(Timestamp),
}

impl LogReader<'_> {
    /// Sends the selected lines. Returns when they are sent, and with `follow` when the reader is gone.
    pub(crate) async fn run(self) -> Result<()> {
        let tail = usize::try_from(self.query.tail_lines).unwrap_or(0);
        let places = if tail > 0 { self.send_tail(tail).await } else { self.send_all().await };
        let places = match places {
            Err(error) if error.is::<ReaderGone>() => return Ok(()),
            places => places?,
        };
        if self.query.follow {
            self.follow(places).await;
        }
        Ok(())
    }

    /// Returns the logs of the selected starts, the oldest first.
    fn logs(&self) -> Vec<ProgramLog> {
        let release = &self.query.deployment_id;
        let mut logs = ProgramLog::list(self.environment);
        logs.retain(|it| release.is_empty() || it.release == *release);
        logs
    }

    fn open(&self, log: ProgramLog) -> Arc<StartLog> {
        Arc::new(StartLog::new(self.open_logs.open(log), Selection::of(self.query)))
    }

    /// Sends all selected lines. Returns the places after them, by the number of the start.
    async fn send_all(&self) -> Result<BTreeMap<u64, Place>> {
        let mut places = BTreeMap::new();
        for log in self.logs() {
            let start = self.open(log);
            let place = if let Some((engine, id)) = self.container_of(&start) {
                let output = OutputQuery { id, tail: None, since: since(&start), follow: false };
                send_container(engine, &output, &start, Place::Begin, &self.sink).await?
            } else {
                self.send_stored(&start).await?
            };
            places.insert(start.number(), place);
        }
        Ok(places)
    }

    /// Sends the selected lines that a log has now, and at most as much again: a program may print faster
    /// than its lines are read.
    async fn send_stored(&self, start: &Arc<StartLog>) -> Result<Place> {
        let mut place = Place::Begin;
        let mut remaining = usize::try_from(start.open.log.bytes())?.saturating_mul(2);
        while remaining > 0
            && let Some(part) = start.open.read(place.position(), start.selection.start).await?
        {
            place = Place::File(part.end);
            remaining = remaining.saturating_sub(part.bytes.len());
            start.send(part, &self.sink).await?;
        }
        Ok(place)
    }

    /// Sends the last selected lines.
    async fn send_tail(&self, max: usize) -> Result<BTreeMap<u64, Place>> {
        let mut places = BTreeMap::new();
        let mut lines = VecDeque::new();
        for log in self.logs().into_iter().rev() {
            if lines.len() == max {
                break;
            }
            let start = self.open(log);
            let place = if let Some((engine, id)) = self.container_of(&start) {
                let tail = start.selection.is_all().then_some(max);
                let output = OutputQuery { id, tail, since: since(&start), follow: false };
                let mut found: Vec<LogLine> = vec![];
                let mut parts = std::pin::pin!(engine.lines(&output));
                let mut place = Place::Begin;
                while let Some(line) = parts.try_next().await? {
                    place = Place::Time(line.time);
                    found.extend(start.select(&line.as_raw()));
                }
                let missing = max - lines.len();
                for line in found.into_iter().rev().take(missing) {
                    lines.push_front(line);
                }
                place
            } else {
                let (start, missing) = (start.clone(), max - lines.len());
                let tail = spawn_blocking(move || start.read_tail(missing)).await??;
                for line in tail.lines.into_iter().rev() {
                    lines.push_front(line);
                }
                tail.end.map_or(Place::Begin, Place::File)
            };
            places.insert(start.number(), place);
        }
        for batch in batches(lines.into()) {
            self.sink.send(batch).await?;
        }
        Ok(places)
    }

    fn container_of<'b>(&'b self, start: &'b StartLog) -> Option<(&'b ContainerOutput, &'b str)> {
        self.engine.as_ref().zip(start.container.as_deref())
    }

    /// Sends new lines until the reader is gone. The logs that end are followed until their successors have
    /// one.
    async fn follow(&self, mut places: BTreeMap<u64, Place>) {
        let mut followed = VecDeque::new();
        let mut tasks = JoinSet::new();
        let mut last = places.keys().next_back().map_or(0, |it| it.saturating_sub(1));
        let mut listed_at: Option<SystemTime> = None;
        loop {
            let modified = modified(&self.environment.logs());
            if listed_at.is_none() || modified != listed_at {
                listed_at = modified;
                for log in self.logs() {
                    if log.number <= last {
                        continue;
                    }
                    last = log.number;
                    let start = self.open(log);
                    let place = places.remove(&last).unwrap_or_default();
                    let (engine, sink) = (self.engine.clone(), self.sink.clone());
                    followed.push_back(tasks.spawn(follow_start(start, engine, place, sink)));
                }
                while followed.len() > FOLLOWED_MAX {
                    followed.pop_front().inspect(tokio::task::AbortHandle::abort);
                }
            }
            tokio::select! {
                () = self.sink.closed() => return,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    }
}

impl Place {
    fn position(self) -> Option<Position> {
        if let Self::File(position) = self { Some(position) } else { None }
    }
}

fn since(start: &StartLog) -> i64 {
    start.selection.start.map_or(0, |it| it.seconds)
}

/// Returns the time of the last change of a directory. It was read a moment ago, so this does not block.
fn modified(folder: &Path) -> Option<SystemTime> {
    std::fs::metadata(folder).and_then(|it| it.modified()).ok()
}

/// Sends the new lines of a start, until its container ends.
pub(super) async fn follow_start(
    start: Arc<StartLog>,
    engine: Option<ContainerOutput>,
    place: Place,
    sink: LineSink,
) {
    if let Some((engine, id)) = engine.as_ref().zip(start.container.as_deref()) {
        let since = if let Place::Time(time) = place { time.seconds } else { since(&start) };
        let output = OutputQuery { id, tail: None, since, follow: true };
        let sent = send_container(engine, &output, &start, place, &sink).await;
        if let Err(error) = sent {
            tracing::debug!(error = format!("{error:#}"), "the output of a container ended");
        }
        return;
    }
    let mut position = place.position();
    // Fails if the log was removed.
    while let Ok(read) = start.open.read_shared(position).await {
        let mut has_more = false;
        if let Some(part) = read {
            position = Some(part.end);
            has_more = part.bytes.len() >= LARGE_PART_BYTES;
            if start.send(part, &sink).await.is_err() {
                return;
            }
        }
        if !has_more {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Sends the selected lines of a container after a place. Returns the place after the last line.
async fn send_container(
    engine: &ContainerOutput,
    output: &OutputQuery<'_>,
    start: &StartLog,
    mut place: Place,
    sink: &LineSink,
) -> Result<Place> {
    let after = if let Place::Time(time) = place { Some(order(time)) } else { None };
    let mut parts = std::pin::pin!(engine.lines(output).ready_chunks(CONTAINER_LINES));
    while let Some(part) = parts.next().await {
        let mut lines = vec![];
        for line in part {
            let line = line?;
            if after.is_none_or(|it| it < order(line.time)) {
                place = Place::Time(line.time);
                lines.extend(start.select(&line.as_raw()));
            }
        }
        for batch in batches(lines) {
            sink.send(batch).await?;
        }
    }
    Ok(place)
}
