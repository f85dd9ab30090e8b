//! Limits of what a runner says about a task. Its texts come from programs, commits and git.

use api::project as pb;

use super::{Outcome, lease::Progress, wire};
use crate::foreign_text::{block, line};

/// Longest error, in bytes: an event holds it up to three times.
pub(crate) const ERROR_BYTES_MAX: usize = 2_000;
const STEP_BYTES_MAX: usize = 200;
const SUBJECT_BYTES_MAX: usize = 200;
const AUTHOR_BYTES_MAX: usize = 200;
const URL_BYTES_MAX: usize = 500;

/// How far a task is.
pub(super) fn progress(it: &pb::ReportProgressRequest) -> Progress {
    Progress {
        percent: it.progress_percent,
        step: line(&it.current_step, STEP_BYTES_MAX),
        steps: (it.steps_completed, it.total_steps),
    }
}

/// How a task ended.
pub(super) fn outcome(it: &pb::FinishTaskRequest) -> Outcome {
    match it.error_message.as_str() {
        _ if it.cancelled => Outcome::Cancelled,
        "" => Outcome::Completed {
            commit: it.commit.clone(),
            url: web_address(&it.url),
            observed: wire::observed(it.observed()),
        },
        error => Outcome::Failed { error: block(error, ERROR_BYTES_MAX) },
    }
}

/// First line of a commit's message, and its author.
pub(super) fn commit(it: &pb::FinishTaskRequest) -> (String, String) {
    (line(&it.commit_subject, SUBJECT_BYTES_MAX), line(&it.commit_author, AUTHOR_BYTES_MAX))
}

/// An address for people to open; empty if it is none.
fn web_address(url: &str) -> String {
    let is_web = ["http://", "https://"].iter().any(|it| url.starts_with(it));
    let is_clean = line(url, URL_BYTES_MAX) == url && !url.contains(char::is_whitespace);
    if is_web && is_clean { url.to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_of_the_web_is_shown_as_one() {
        for good in ["http://127.0.0.1:8069", "https://shop.example.com/x"] {
            assert_eq!(web_address(good), good);
        }
        let long = format!("https://example.com/{}", "a".repeat(500));
        for bad in ["javascript:alert(1)", "https://a b", "https://a\u{202e}b", "ftp://a", &long] {
            assert_eq!(web_address(bad), "", "{bad}");
        }
    }
}
