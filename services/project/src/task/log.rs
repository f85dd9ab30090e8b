//! Limit of a task's log: a runner is under the control of whoever owns its server.

use super::Task;
use crate::foreign_text;

/// Longest line, in bytes.
const LINE_BYTES_MAX: usize = 4_096;

/// Longest log, in bytes.
const LOG_BYTES_MAX: i64 = 4 << 20;

/// Bytes that a line costs besides its text.
const LINE_COST: i64 = 16;

impl Task {
    /// Lines for the log, cleaned and cut, up to its limit; the line after that says so, and is the last.
    pub(super) fn take_lines(&mut self, lines: &[String]) -> Vec<String> {
        let mut taken = vec![];
        for line in lines {
            if self.log_bytes > LOG_BYTES_MAX {
                break;
            }
            let line = foreign_text::line(line, LINE_BYTES_MAX);
            self.log_bytes += LINE_COST + i64::try_from(line.len()).unwrap_or(LOG_BYTES_MAX);
            if self.log_bytes > LOG_BYTES_MAX {
                let megabytes = LOG_BYTES_MAX >> 20;
                taken.push(format!("the log is longer than {megabytes} MiB; the rest is not kept"));
                break;
            }
            taken.push(line);
        }
        taken
    }
}
