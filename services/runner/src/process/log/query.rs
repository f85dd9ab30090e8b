//! Reading of logs: the selected lines of all starts, without secrets.

use std::collections::VecDeque;

use anyhow::Result;
use api::project::{LogLine, LogQuery};
use prost_types::Timestamp;
use tokio::sync::mpsc::Sender;

use super::{
    ProgramLog, StartRecord,
    line::{RawLine, time_of_name},
    segment::{self, Position},
};
use crate::{
    secrets::Secrets,
    text::{LINE_BYTES_MAX, OVERLAP_BYTES},
};

/// Size of the texts of a batch, in bytes.
const BATCH_BYTES: usize = 128 << 10;

/// Number of lines of a batch.
const BATCH_LINES: usize = 5_000;

/// Number of attempts to read a log whose files become full meanwhile.
const ATTEMPTS_MAX: usize = 100;

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
    pub(super) log: ProgramLog,
    pub(super) container: Option<String>,
    pub(super) selection: Selection,
    secrets: Secrets,
}

impl LineSink {
    pub(crate) fn new(sender: Sender<Vec<LogLine>>) -> Self {
        Self(sender)
    }

    pub(super) async fn send(&self, lines: Vec<LogLine>) -> Result<(), ReaderGone> {
        self.0.send(lines).await.map_err(|_| ReaderGone)
    }

    pub(super) fn blocking_send(&self, lines: Vec<LogLine>) -> Result<(), ReaderGone> {
        self.0.blocking_send(lines).map_err(|_| ReaderGone)
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

    /// Returns true if all lines of a full file are before the first selected one.
    fn skips_file(&self, name: &str) -> bool {
        let last = time_of_name(name);
        self.start.zip(last).is_some_and(|(start, last)| order(last) < order(start))
    }
}

pub(super) fn order(time: Timestamp) -> (i64, i32) {
    (time.seconds, time.nanos)
}

impl StartLog {
    pub(super) fn new(log: ProgramLog, selection: Selection) -> Self {
        let StartRecord { secrets, container } = log.record();
        let secrets = Secrets::new(secrets.iter().map(|(name, value)| (&**name, &**value)));
        // The output of a removed container was copied.
        let container = container.filter(|_| !log.path.join(super::CURRENT).exists());
        Self { log, container, selection, secrets }
    }

    /// Returns a line as it is sent; `None` if it is not selected. Searched after the secrets are replaced,
    /// so that a search cannot find out a secret.
    pub(super) fn select(&self, line: &RawLine<'_>) -> Option<LogLine> {
        if !self.selection.has_time(line.time) {
            return None;
        }
        let text = &line.text[..line.text.len().min(LINE_BYTES_MAX + OVERLAP_BYTES)];
        let text = self.secrets.redact_line(&String::from_utf8_lossy(text), LINE_BYTES_MAX);
        let is_selected =
            self.selection.contains.is_empty() || text.contains(&self.selection.contains);
        let deployment_id = self.log.release.clone();
        is_selected.then_some(LogLine { time: Some(line.time), text, deployment_id })
    }

    fn select_all(&self, bytes: &[u8]) -> Vec<LogLine> {
        let lines = bytes.split(|it| *it == b'\n').filter_map(RawLine::parse);
        lines.filter_map(|it| self.select(&it)).collect()
    }

    /// Sends the lines after a position; returns the position after the last one.
    pub(super) fn send_after(
        &self,
        position: Option<Position>,
        sink: &LineSink,
    ) -> Result<Option<Position>> {
        let mut reached = position;
        for _ in 0..ATTEMPTS_MAX {
            let is_complete = self.send_parts(&mut reached, sink)?;
            if is_complete {
                break;
            }
        }
        Ok(reached)
    }

    /// Returns false if a file became full meanwhile, so that its rest has another name.
    fn send_parts(&self, reached: &mut Option<Position>, sink: &LineSink) -> Result<bool> {
        for part in segment::after(&self.log.path, *reached) {
            let name = part.path.file_name().unwrap_or_default().to_string_lossy();
            if self.selection.skips_file(&name) {
                continue;
            }
            let Some(read) = part.read()? else { return Ok(false) };
            *reached = Some(read.end);
            for batch in batches(self.select_all(&read.bytes)) {
                sink.blocking_send(batch)?;
            }
        }
        Ok(true)
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
        for part in segment::after(&self.log.path, None).iter().rev() {
            let Some(read) = part.read()? else { return Ok(None) };
            tail.end = tail.end.or(Some(read.end));
            let missing = max - tail.lines.len();
            for line in self.select_all(&read.bytes).into_iter().rev().take(missing) {
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

/// Splits lines into batches.
pub(super) fn batches(lines: Vec<LogLine>) -> Vec<Vec<LogLine>> {
    let mut all = vec![];
    let mut batch = vec![];
    let mut bytes = 0;
    for line in lines {
        bytes += line.text.len();
        batch.push(line);
        if bytes >= BATCH_BYTES || batch.len() >= BATCH_LINES {
            all.push(std::mem::take(&mut batch));
            bytes = 0;
        }
    }
    if !batch.is_empty() {
        all.push(batch);
    }
    all
}
