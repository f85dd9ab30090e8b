//! How long entries are shown and kept: what nobody may see any more is purged in whole months; the hashes
//! stay, so every proof of what remains is good (AU-9, AU-10).

pub(crate) mod job;
pub(crate) mod store;

use time::{Duration, OffsetDateTime, Time};

/// How long what is no longer shown is kept: who goes back to a larger plan sees it again (AU-10).
pub(crate) const GRACE: Duration = Duration::days(30);

/// The moment before which received entries may be purged from a log that shows `days`: the start of the
/// first month of which something is shown, or was until `GRACE` ago.
pub(crate) fn purged_before(days: i32, now: OffsetDateTime) -> OffsetDateTime {
    let hidden = now - Duration::days(days.into()) - GRACE;
    let first = hidden.date().replace_day(1).expect("every month has a first day");
    first.with_time(Time::MIDNIGHT).assume_utc()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    /// AU-9, AU-10: a month goes when its last entry is hidden for thirty days.
    #[test]
    fn a_month_goes_when_its_last_entry_was_hidden_long_enough() {
        let (january, february) = (datetime!(2026-01-01 0:00 UTC), datetime!(2026-02-01 0:00 UTC));
        assert_eq!(purged_before(7, datetime!(2026-03-09 23:59 UTC)), january);
        assert_eq!(purged_before(7, datetime!(2026-03-10 00:00 UTC)), february);
        assert_eq!(purged_before(365, datetime!(2027-02-01 00:00 UTC)), january);
    }
}
