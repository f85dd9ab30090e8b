//! The deadline of a call.

use std::time::{Duration, Instant};

use api::error::Reason;
use http::HeaderMap;
use tonic::{Code, Status};

use crate::{error::status, rule::Rule};

/// Time budget of one call.
pub(super) struct CallTime {
    budget: Duration,
    pub(super) deadline: Instant,
}

impl CallTime {
    /// Starts the time of a call that arrives now: its `grpc-timeout`, at most `max`.
    pub(super) fn of(headers: &HeaderMap, max: Duration) -> Self {
        let budget = budget(headers, max);
        Self { budget, deadline: Instant::now() + budget }
    }

    /// Returns the status for a call that exceeded its deadline.
    pub(super) fn exceeded(&self, rule: &Rule) -> Status {
        let ms = self.budget.as_millis();
        let message = format!(
            "no response within {ms} ms; a change may still complete: read the object, then retry"
        );
        let metadata = vec![("method", rule.method.clone())];
        status(Code::DeadlineExceeded, Reason::DeadlineExceeded, message, metadata)
    }
}

/// Returns the client's time-out, at most `max`, reduced by up to 20 ms so that the status arrives before the
/// client's own timer fires.
fn budget(headers: &HeaderMap, max: Duration) -> Duration {
    let budget = requested(headers).unwrap_or(max).min(max);
    budget.saturating_sub((budget / 10).min(Duration::from_millis(20)))
}

/// Returns the time-out of a request (`grpc-timeout`), if it has a valid one.
pub fn requested(headers: &HeaderMap) -> Option<Duration> {
    headers.get("grpc-timeout").and_then(|it| it.to_str().ok()).and_then(grpc_timeout)
}

/// Parses a `grpc-timeout` header: at most eight digits and a unit, for example `250m` (milliseconds).
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn malformed_timeouts_are_ignored() {
        assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(grpc_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for malformed in ["", "m", "-1S", "1X", "123456789S", "1.5S", "é"] {
            assert_eq!(grpc_timeout(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn a_client_gets_at_most_the_longest_deadline() {
        let headers = HeaderMap::from_iter([(
            http::header::HeaderName::from_static("grpc-timeout"),
            HeaderValue::from_static("1H"),
        )]);
        assert!(budget(&headers, Duration::from_secs(30)) < Duration::from_secs(30));
    }
}
