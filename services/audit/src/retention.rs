//! How long entries are shown and kept: what nobody may see any more is purged a month at a time; the hashes
//! stay, so every proof of what remains is good (AU-9, AU-10).

pub(crate) mod job;
pub(crate) mod store;

use time::{Date, Duration, OffsetDateTime, Time};

/// How long what is no longer shown is kept: who goes back to a larger plan sees it again (AU-10).
pub(crate) const GRACE: Duration = Duration::days(30);

/// Whether everything that was received in a month may be purged from a log that shows `days`.
pub(crate) fn is_due(month: Date, days: i32, now: OffsetDateTime) -> bool {
    let days_in_month = month.month().length(month.year());
    let end = month.with_time(Time::MIDNIGHT).assume_utc() + Duration::days(days_in_month.into());
    end + Duration::days(days.into()) + GRACE <= now
}

#[cfg(test)]
mod tests {
    use time::macros::{date, datetime};

    use super::*;

    /// AU-9, AU-10: a month goes when its last entry is hidden for thirty days.
    #[test]
    fn a_month_goes_when_its_last_entry_was_hidden_long_enough() {
        assert!(!is_due(date!(2026 - 01 - 01), 7, datetime!(2026-03-09 23:59 UTC)));
        assert!(is_due(date!(2026 - 01 - 01), 7, datetime!(2026-03-10 00:00 UTC)));
        assert!(!is_due(date!(2026 - 01 - 01), 365, datetime!(2027-02-01 00:00 UTC)));
    }
}
