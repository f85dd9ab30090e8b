//! The newest warnings and errors in the logs of all suites of the process, for the message of a failed test.

use std::{
    collections::VecDeque,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing_subscriber::filter::LevelFilter;

/// Number of lines that are kept.
const LINES_MAX: usize = 60;

static LINES: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Keeps warnings and errors from now on.
pub(crate) fn keep() {
    let _ = tracing_subscriber::fmt()
        .compact()
        .with_ansi(false)
        .with_max_level(LevelFilter::WARN)
        .with_writer(|| Line)
        .try_init();
}

/// The kept lines with a title, oldest first; empty without any.
pub(crate) fn text() -> String {
    let lines = lines();
    if lines.is_empty() {
        return String::new();
    }
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    format!("; warnings of all suites of this process:\n{}", lines.concat())
}

fn lines() -> MutexGuard<'static, VecDeque<String>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writer of one line.
struct Line;

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lines = lines();
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
