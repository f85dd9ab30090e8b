//! Limits of a task's log. They are enforced here, because a runner is controlled by the owner of its server.

use chassis::foreign_text::clean_line;

use super::Task;

/// Maximum length of a line, in bytes.
const LINE_BYTES_MAX: usize = 4_096;

/// Maximum size of a log, in bytes.
const LOG_BYTES_MAX: i64 = 4 << 20;

/// Size that each line counts in addition to its text, in bytes.
const LINE_OVERHEAD_BYTES: i64 = 16;

impl Task {
    /// Sanitizes new lines of the log and counts their size. Lines beyond the limit are dropped; the first
    /// of them is replaced by a note, which is the last line of the log.
    pub fn accept_log_lines(&mut self, lines: &[String]) -> Vec<String> {
        let mut accepted = vec![];
        for line in lines {
            if self.log_bytes > LOG_BYTES_MAX {
                break;
            }
            let line = clean_line(line, LINE_BYTES_MAX);
            self.log_bytes +=
                LINE_OVERHEAD_BYTES + i64::try_from(line.len()).unwrap_or(LOG_BYTES_MAX);
            if self.log_bytes > LOG_BYTES_MAX {
                let mebibytes = LOG_BYTES_MAX >> 20;
                accepted
                    .push(format!("the log is longer than {mebibytes} MiB; the rest is not kept"));
                break;
            }
            accepted.push(line);
        }
        accepted
    }
}
