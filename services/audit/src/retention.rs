//! Retention: a plan hides entries after some days and purges them later, in whole months. Hashes stay, so
//! all proofs of the remaining entries stay valid (AU-9, AU-10).

pub(crate) mod purge;
pub(crate) mod store;

use time::{Duration, OffsetDateTime, Time};

/// Time between hiding and purging of an entry: after an upgrade within it, the entry is visible again
/// (AU-10).
const GRACE_PERIOD: Duration = Duration::days(30);

/// Returns the time before which received entries are purged, for a plan that shows entries of the last
/// `days`. It is the start of the first month that was visible at any time within the grace period.
fn purge_cutoff(days: i32, now: OffsetDateTime) -> OffsetDateTime {
    let hidden_before = now - Duration::days(days.into()) - GRACE_PERIOD;
    let month = hidden_before.date().replace_day(1).expect("every month has a first day");
    month.with_time(Time::MIDNIGHT).assume_utc()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    /// AU-9, AU-10: a month is purged thirty days after its last entry was hidden.
    #[test]
    fn a_month_is_purged_when_its_last_entry_was_hidden_long_enough() {
        let january = datetime!(2026-01-01 0:00 UTC);
        let february = datetime!(2026-02-01 0:00 UTC);
        assert_eq!(purge_cutoff(7, datetime!(2026-03-09 23:59 UTC)), january);
        assert_eq!(purge_cutoff(7, datetime!(2026-03-10 00:00 UTC)), february);
        assert_eq!(purge_cutoff(365, datetime!(2027-02-01 00:00 UTC)), january);
    }
}
