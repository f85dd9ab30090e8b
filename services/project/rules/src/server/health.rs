//! Health of servers, derived from the time of the last heartbeat.

use time::{Duration, OffsetDateTime};

/// Interval of heartbeats.
pub const HEARTBEAT_INTERVAL: Duration = Duration::seconds(5);

/// Health of a server, by the number of missing heartbeats in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// At most one.
    Healthy,
    /// Two to four.
    Degraded,
    /// Five to nineteen, or no heartbeat yet.
    Disconnected,
    /// Twenty or more.
    Dead,
}

chassis::text_column!(Health {
    Healthy = "healthy", Degraded = "degraded", Disconnected = "disconnected", Dead = "dead",
});

impl Health {
    /// Health at a time. A single heartbeat makes a server healthy again.
    pub fn at(last_seen: Option<OffsetDateTime>, now: OffsetDateTime) -> Self {
        let Some(last_seen) = last_seen else { return Self::Disconnected };
        // Intervals since the last heartbeat. The heartbeat of the current interval is not missing yet.
        match (now - last_seen).whole_milliseconds() / HEARTBEAT_INTERVAL.whole_milliseconds() {
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

    /// PL-20 depends on these limits.
    #[test]
    fn health_follows_from_the_number_of_missing_heartbeats() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let after = |missing: i32| Health::at(Some(now), now + HEARTBEAT_INTERVAL * (missing + 1));
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
