//! The only source of time.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use prost_types::Timestamp;
pub use time::Duration;
use time::OffsetDateTime;

/// The wall clock, which a test can move.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    ahead_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The present moment, to the microsecond, which is what the database keeps.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn now(&self) -> OffsetDateTime {
        let now = OffsetDateTime::now_utc()
            + Duration::milliseconds(self.ahead_ms.load(Ordering::Relaxed));
        now.replace_nanosecond(now.nanosecond() / 1_000 * 1_000).unwrap_or(now)
    }

    /// Moves the clock ahead, for every holder of it.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.whole_milliseconds())
            .expect("a test moves the clock by years at most");
        self.ahead_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

/// A moment that the contract wrote; `None` if there is no such moment.
pub fn moment(at: Timestamp) -> Option<OffsetDateTime> {
    let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
}

/// A moment as the contract writes it.
pub fn timestamp(at: OffsetDateTime) -> Timestamp {
    let nanos = i32::try_from(at.nanosecond()).expect("a nanosecond is below 1e9");
    Timestamp { seconds: at.unix_timestamp(), nanos }
}
