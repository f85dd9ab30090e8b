//! The deadline of a call.

use std::time::{Duration, Instant};

use api::error::Reason;
use http::HeaderMap;
use tonic::{Code, Status};

use crate::{error::status, rule::Rule};

/// The time of one call.
pub(super) struct CallTime {
    budget: Duration,
    pub(super) deadline: Instant,
}

impl CallTime {
    /// From now on, as long as the client allows, `max` at most.
    pub(super) fn of(headers: &HeaderMap, max: Duration) -> Self {
        let budget = budget(headers, max);
        Self { budget, deadline: Instant::now() + budget }
    }

    /// The answer to a call whose handler did not end in time.
    pub(super) fn late(&self, rule: &Rule) -> Status {
        let ms = self.budget.as_millis();
        let message = format!("no answer within {ms} ms; a change may still complete");
        let metadata = vec![("method", rule.method.clone())];
        status(Code::DeadlineExceeded, Reason::DeadlineExceeded, message, metadata)
    }
}

/// The time-out that the client asks for, `max` at most, and a little less than that, so that the answer is
/// there before the client's own timer fires.
fn budget(headers: &HeaderMap, max: Duration) -> Duration {
    let asked = headers.get("grpc-timeout").and_then(|it| it.to_str().ok()).and_then(grpc_timeout);
    let budget = asked.unwrap_or(max).min(max);
    budget.saturating_sub((budget / 10).min(Duration::from_millis(20)))
}

/// `5S`, `250m` (milliseconds): at most eight digits and a unit.
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
    fn only_well_formed_timeouts_count() {
        assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(grpc_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "m", "-1S", "1X", "123456789S", "1.5S", "é"] {
            assert_eq!(grpc_timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_client_cannot_ask_for_more_time_than_there_is() {
        let headers = HeaderMap::from_iter([(
            http::header::HeaderName::from_static("grpc-timeout"),
            HeaderValue::from_static("1H"),
        )]);
        assert!(budget(&headers, Duration::from_secs(30)) < Duration::from_secs(30));
    }
}
