//! Reading of logs: the selected lines of all starts, without secrets.

use std::{collections::VecDeque, sync::Arc};

use anyhow::Result;
use api::project::{LogLine, LogQuery};
use prost_types::Timestamp;
use tokio::{sync::mpsc::Sender, task::spawn_blocking};

use super::{
    filter::TextFilter,
    line::{RawLine, lines, lines_from_end},
    open::{ATTEMPTS_MAX, NewPart, OpenLog},
    segment::{self, Position},
};
use crate::text::{LINE_BYTES_MAX, OVERLAP_BYTES};

/// Size of the texts of a batch, in bytes.
const BATCH_BYTES: usize = 256 << 10;

/// Number of lines of a batch.
const BATCH_LINES: usize = 5_000;

/// Size of the end of a part whose lines are selected without another thread, in bytes.
const INLINE_BYTES: usize = 8 << 10;

/// Conditions of a query.
#[derive(Clone)]
pub(super) struct Selection {
    pub(super) start: Option<Timestamp>,
    pub(super) end: Option<Timestamp>,
    pub(super) contains: String,
}

/// Receiver of lines in batches.
#[derive(Clone)]
pub(crate) struct LineSink(Sender<Vec<LogLine>>);

/// Error of a delivery whose reader is gone.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl std::fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the reader is gone")
    }
}

impl std::error::Error for ReaderGone {}

/// Lines of one start, selected and without secrets.
pub(super) struct StartLog {
    pub(super) open: Arc<OpenLog>,
    /// Id of the container whose engine has the output.
    pub(super) container: Option<String>,
    pub(super) selection: Selection,
    filter: Option<TextFilter>,
}

impl LineSink {
    pub(crate) fn new(sender: Sender<Vec<LogLine>>) -> Self {
        Self(sender)
    }

    pub(super) async fn send(&self, lines: Vec<LogLine>) -> Result<(), ReaderGone> {
        self.0.send(lines).await.map_err(|_| ReaderGone)
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Returns when the reader is gone.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

impl Selection {
    pub(super) fn of(query: &LogQuery) -> Self {
        Self { start: query.start_time, end: query.end_time, contains: query.contains.clone() }
    }

    /// True if no line is left out.
    pub(super) fn is_all(&self) -> bool {
        self.start.is_none() && self.end.is_none() && self.contains.is_empty()
    }

    fn has_time(&self, time: Timestamp) -> bool {
        self.start.is_none_or(|it| order(it) <= order(time))
            && self.end.is_none_or(|it| order(time) < order(it))
    }
}

pub(super) fn order(time: Timestamp) -> (i64, i32) {
    (time.seconds, time.nanos)
}

impl StartLog {
    pub(super) fn new(open: Arc<OpenLog>, selection: Selection) -> Self {
        let container = open.container.clone().filter(|_| !open.is_archived());
        let filter = TextFilter::new(&selection.contains, &open.secrets);
        Self { open, container, selection, filter }
    }

    pub(super) fn number(&self) -> u64 {
        self.open.log.number
    }

    /// Returns a line as it is sent; `None` if it is not selected. Searched after the secrets are replaced,
    /// so that a search cannot find out a secret.
    pub(super) fn select(&self, line: &RawLine<'_>) -> Option<LogLine> {
        if !self.selection.has_time(line.time) {
            return None;
        }
        let secrets = &self.open.secrets;
        let text = &line.text[..line.text.len().min(LINE_BYTES_MAX + OVERLAP_BYTES)];
        if self.filter.as_ref().is_some_and(|it| it.excludes(text, secrets)) {
            return None;
        }
        let text = secrets.redact_line(&String::from_utf8_lossy(text), LINE_BYTES_MAX);
        let is_selected = self.filter.as_ref().is_none_or(|it| it.selects(&text));
        let deployment_id = self.open.log.release.clone();
        is_selected.then_some(LogLine { time: Some(line.time), text, deployment_id })
    }

    /// Sends the selected lines of a part.
    pub(super) async fn send(
        self: &Arc<Self>,
        part: Arc<NewPart>,
        sink: &LineSink,
    ) -> Result<(), ReaderGone> {
        let mut begin = 0;
        while begin < part.bytes.len() {
            let (batch, end) = if part.bytes.len() - begin <= INLINE_BYTES {
                self.next_batch(&part.bytes, begin)
            } else {
                let (start, part) = (self.clone(), part.clone());
                let selecting = spawn_blocking(move || start.next_batch(&part.bytes, begin));
                // Fails only at the end of the runner.
                selecting.await.map_err(|_| ReaderGone)?
            };
            begin = end;
            if !batch.is_empty() {
                sink.send(batch).await?;
            } else if sink.is_closed() {
                return Err(ReaderGone);
            }
        }
        Ok(())
    }

    /// Returns the selected lines from a position on, as many as a batch has, and the position after them.
    fn next_batch(&self, bytes: &[u8], begin: usize) -> (Vec<LogLine>, usize) {
        let mut batch = Batch::default();
        let mut end = begin;
        for line in lines(&bytes[begin..]) {
            end += line.len() + 1;
            let selected = RawLine::parse(line).and_then(|it| self.select(&it));
            if let Some(full) = selected.and_then(|it| batch.push(it)) {
                return (full, end);
            }
        }
        (batch.lines, bytes.len())
    }

    /// Returns the last selected lines, at most `max`, and the position after the last line.
    pub(super) fn read_tail(&self, max: usize) -> Result<Tail> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(tail) = self.try_read_tail(max)? {
                return Ok(tail);
            }
        }
        // A program that prints so much has no tail that could be read in time.
        Ok(Tail::default())
    }

    /// Returns `None` if a file became full meanwhile.
    fn try_read_tail(&self, max: usize) -> Result<Option<Tail>> {
        let mut tail = Tail::default();
        for part in segment::after(&self.open.log.path, None).iter().rev() {
            let Some(read) = part.read()? else { return Ok(None) };
            tail.end = tail.end.or(Some(read.end));
            let missing = max - tail.lines.len();
            let selected = lines_from_end(&read.bytes).filter_map(RawLine::parse);
            for line in selected.filter_map(|it| self.select(&it)).take(missing) {
                tail.lines.push_front(line);
            }
            if tail.lines.len() == max {
                break;
            }
        }
        Ok(Some(tail))
    }
}

/// Last lines of a log.
#[derive(Default)]
pub(super) struct Tail {
    pub(super) lines: VecDeque<LogLine>,
    /// Position after the last line.
    pub(super) end: Option<Position>,
}

/// Lines that are sent together.
#[derive(Default)]
struct Batch {
    lines: Vec<LogLine>,
    bytes: usize,
}

impl Batch {
    /// Adds a line. Returns all lines if there are enough.
    fn push(&mut self, line: LogLine) -> Option<Vec<LogLine>> {
        self.bytes += line.text.len();
        self.lines.push(line);
        let is_full = self.bytes >= BATCH_BYTES || self.lines.len() >= BATCH_LINES;
        is_full.then(|| std::mem::take(self).lines)
    }
}

/// Splits lines into batches.
pub(super) fn batches(lines: Vec<LogLine>) -> Vec<Vec<LogLine>> {
    let mut batch = Batch::default();
    let mut all: Vec<_> = lines.into_iter().filter_map(|it| batch.push(it)).collect();
    if !batch.lines.is_empty() {
        all.push(batch.lines);
    }
    all
}
