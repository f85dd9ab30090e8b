//! How a server is, by when its runner last called (5.3).

use time::{Duration, OffsetDateTime};

/// A runner calls so often.
pub(crate) const BEAT: Duration = Duration::seconds(5);

/// How a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum Health {
    Healthy,
    Degraded,
    Disconnected,
    Dead,
}

impl Health {
    /// By the number of calls that are missing in a row: two, five, twenty. One call makes it healthy.
    pub(crate) fn at(last_seen: Option<OffsetDateTime>, now: OffsetDateTime) -> Self {
        let Some(last_seen) = last_seen else { return Self::Disconnected };
        // The next call may be a little late, and is not missing yet.
        match (now - last_seen).whole_milliseconds() / BEAT.whole_milliseconds() {
            ..=2 => Self::Healthy,
            3..=5 => Self::Degraded,
            6..=20 => Self::Disconnected,
            _ => Self::Dead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PL-20 rests on it: two, five and twenty missing calls.
    #[test]
    fn a_server_is_as_its_runner_calls() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let after = |missing: i32| Health::at(Some(now), now + BEAT * (missing + 1));
        assert_eq!(Health::at(None, now), Health::Disconnected);
        assert_eq!(after(0), Health::Healthy);
        assert_eq!(after(1), Health::Healthy);
        assert_eq!(after(2), Health::Degraded);
        assert_eq!(after(4), Health::Degraded);
        assert_eq!(after(5), Health::Disconnected);
        assert_eq!(after(19), Health::Disconnected);
        assert_eq!(after(20), Health::Dead);
    }
}
