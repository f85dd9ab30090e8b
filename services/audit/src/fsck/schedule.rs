//! Time of the next check.

use time::{Duration, OffsetDateTime};

use super::store::run::{LEASE, Run};

/// Time after a check that did not complete until it is repeated.
const RETRY_INTERVAL: Duration = Duration::minutes(5);

/// Returns the time at which the next check starts, from the runs so far, the newest one first. The first
/// check starts at once. `None` while a check runs.
pub(super) fn next_start(
    runs: &[Run],
    interval: Duration,
    now: OffsetDateTime,
) -> Option<OffsetDateTime> {
    let Some(newest) = runs.first() else { return Some(now) };
    match newest.ended_at {
        None => Some(newest.seen_at + LEASE).filter(|it| *it < now),
        Some(ended_at) if !newest.error.is_empty() => Some(ended_at + RETRY_INTERVAL.min(interval)),
        Some(_) => Some(newest.started_at + interval),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn run(ended_at: Option<OffsetDateTime>, error: &str) -> Run {
        Run {
            started_at: START,
            seen_at: START,
            ended_at,
            trees: 0,
            entries: 0,
            checkpoints: 0,
            finding_count: 0,
            findings: vec![],
            error: error.to_owned(),
        }
    }

    #[test]
    fn the_interval_counts_from_the_start_of_a_completed_check() {
        let now = START + Duration::hours(2);
        let next = |runs: &[Run]| next_start(runs, Duration::DAY, now);
        assert_eq!(next(&[]), Some(now));
        let ended = Some(START + Duration::HOUR);
        assert_eq!(next(&[run(ended, "")]), Some(START + Duration::DAY));
        let retry = START + Duration::HOUR + RETRY_INTERVAL;
        assert_eq!(next(&[run(ended, "the process stopped")]), Some(retry));
    }

    #[test]
    fn a_running_check_is_replaced_once_its_replica_has_stopped() {
        let next = |now| next_start(&[run(None, "")], Duration::DAY, now);
        assert_eq!(next(START + LEASE), None);
        assert_eq!(next(START + LEASE + Duration::SECOND), Some(START + LEASE));
    }
}
