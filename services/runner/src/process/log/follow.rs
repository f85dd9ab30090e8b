//! Delivery of logs to a reader: the lines that are stored, then new ones, also of later starts.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use api::project::{LogLine, LogQuery};
use futures::{StreamExt, TryStreamExt};
use prost_types::Timestamp;
use tokio::task::{JoinSet, spawn_blocking};

use super::{
    ProgramLog,
    query::{LineSink, ReaderGone, Selection, StartLog, batches, order},
    segment::Position,
};
use crate::{
    docker::{ContainerOutput, OutputQuery},
    process::directory::EnvironmentDir,
};

/// Interval at which logs are searched for new lines.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Number of starts that are followed at a time: a version starts beside the one that serves.
const FOLLOWED_MAX: usize = 2;

/// Number of lines of a container that are sent together.
const CONTAINER_LINES: usize = 500;

/// A query to the logs of an environment.
pub(crate) struct LogReader<'a> {
    pub(crate) environment: &'a EnvironmentDir,
    pub(crate) engine: Option<ContainerOutput>,
    pub(crate) query: &'a LogQuery,
    pub(crate) sink: LineSink,
}

/// Place in the log of a start after which new lines are.
#[derive(Clone, Copy, Default)]
enum Place {
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

    fn starts(&self) -> Vec<Arc<StartLog>> {
        let selection = Selection::of(self.query);
        let release = &self.query.deployment_id;
        let logs = ProgramLog::list(self.environment).into_iter();
        let logs = logs.filter(|it| release.is_empty() || it.release == *release);
        logs.map(|it| Arc::new(StartLog::new(it, selection.clone()))).collect()
    }

    /// Sends all selected lines. Returns the places after them, by the number of the start.
    async fn send_all(&self) -> Result<BTreeMap<u64, Place>> {
        let mut places = BTreeMap::new();
        for start in self.starts() {
            let place = if let Some((engine, id)) = self.container_of(&start) {
                let output = OutputQuery { id, tail: None, since: since(&start), follow: false };
                send_container(engine, &output, &start, Place::Begin, &self.sink).await?
            } else {
                let (start, sink) = (start.clone(), self.sink.clone());
                file_place(spawn_blocking(move || start.send_after(None, &sink)).await??)
            };
            places.insert(start.log.number, place);
        }
        Ok(places)
    }

    /// Sends the last selected lines.
    async fn send_tail(&self, max: usize) -> Result<BTreeMap<u64, Place>> {
        let mut places = BTreeMap::new();
        let mut lines = VecDeque::new();
        for start in self.starts().into_iter().rev() {
            if lines.len() == max {
                break;
            }
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
                file_place(tail.end)
            };
            places.insert(start.log.number, place);
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
            let modified = modified(self.environment.logs()).await;
            if listed_at.is_none() || modified != listed_at {
                listed_at = modified;
                for start in self.starts() {
                    if start.log.number <= last {
                        continue;
                    }
                    last = start.log.number;
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

fn file_place(position: Option<Position>) -> Place {
    position.map_or(Place::Begin, Place::File)
}

fn since(start: &StartLog) -> i64 {
    start.selection.start.map_or(0, |it| it.seconds)
}

async fn modified(folder: PathBuf) -> Option<SystemTime> {
    tokio::fs::metadata(folder).await.and_then(|it| it.modified()).ok()
}

/// Sends the new lines of a start, until its container ends.
async fn follow_start(
    start: Arc<StartLog>,
    engine: Option<ContainerOutput>,
    mut place: Place,
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
    loop {
        let (reading, sink) = (start.clone(), sink.clone());
        let position = if let Place::File(position) = place { Some(position) } else { None };
        match spawn_blocking(move || reading.send_after(position, &sink)).await {
            Ok(Ok(position)) => place = file_place(position),
            // The reader is gone, or the log was removed.
            _ => return,
        }
        tokio::time::sleep(POLL_INTERVAL).await;
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
