//! The only source of time. All replicas use the database's clock (G-17): each measures the offset of its
//! machine's clock to the database's, and adds it to every time that it reads.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use prost_types::Timestamp;
pub use time::Duration;
use time::OffsetDateTime;

/// The wall clock. Clones share their state, and tests can move it.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Offset of the database's clock from the machine's, in microseconds.
    offset_us: Arc<AtomicI64>,
    /// Time by which a test has advanced the clock, in milliseconds.
    advanced_ms: Arc<AtomicI64>,
    /// Simulated error of the machine's clock, for tests.
    machine_error: Duration,
}

/// Smallest change of the offset that is applied. Smaller ones are within the error of the measurement.
const TOLERANCE: Duration = Duration::milliseconds(10);

/// Longest duration of a read whose result is used.
const READ_MAX: Duration = Duration::milliseconds(250);

/// Smallest change of the offset that is logged as a warning.
const WARN_ABOVE: Duration = Duration::seconds(1);

impl Clock {
    /// Creates a clock on a machine whose own clock is wrong by `machine_error`, for tests.
    #[must_use]
    pub fn skewed_by(machine_error: Duration) -> Self {
        Self { machine_error, ..Self::default() }
    }

    /// Returns the current time, truncated to microseconds, the resolution of PostgreSQL.
    pub fn now(&self) -> OffsetDateTime {
        let now = self.machine_time()
            + Duration::microseconds(self.offset_us.load(Ordering::Relaxed))
            + Duration::milliseconds(self.advanced_ms.load(Ordering::Relaxed));
        now.replace_nanosecond(now.nanosecond() / 1_000 * 1_000).unwrap_or(now)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn machine_time(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + self.machine_error
    }

    /// Measures the offset to another clock, which `read` reads, and applies it. The error of the measurement
    /// is half the duration of the read, so a slow read is ignored.
    pub async fn synchronize<E>(
        &self,
        read: impl Future<Output = Result<OffsetDateTime, E>>,
    ) -> Result<(), E> {
        let before = self.machine_time();
        let remote_time = read.await?;
        let took: Duration = self.machine_time() - before;
        let offset: Duration = remote_time - (before + took / 2);
        let previous = Duration::microseconds(self.offset_us.load(Ordering::Relaxed));
        let is_imprecise = took > READ_MAX;
        let is_within_error = (offset - previous).abs() < TOLERANCE.max(took);
        if is_imprecise || is_within_error {
            return Ok(());
        }
        if (offset - previous).abs() > WARN_ABOVE {
            let offset_s = offset.as_seconds_f64();
            tracing::warn!(
                offset_s,
                "this machine's clock differs from the database's, which is used; check its NTP service"
            );
        }
        let offset_us = i64::try_from(offset.whole_microseconds()).unwrap_or_default();
        self.offset_us.store(offset_us, Ordering::Relaxed);
        Ok(())
    }

    /// Advances the clock and all its clones, for tests.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.whole_milliseconds())
            .expect("a test moves the clock by years at most");
        self.advanced_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

/// Converts a protobuf timestamp; `None` if it is out of range.
pub fn datetime(timestamp: Timestamp) -> Option<OffsetDateTime> {
    let nanos = i128::from(timestamp.seconds) * 1_000_000_000 + i128::from(timestamp.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
}

/// Converts a time to a protobuf timestamp.
pub fn timestamp(time: OffsetDateTime) -> Timestamp {
    let nanos = i32::try_from(time.nanosecond()).expect("nanoseconds are below 1e9");
    Timestamp { seconds: time.unix_timestamp(), nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G-17.
    #[tokio::test]
    async fn synchronizing_corrects_a_wrong_machine_clock() {
        let correct = Clock::default();
        let wrong = Clock::skewed_by(Duration::hours(-3));
        let error = |it: &Clock| (it.now() - correct.now()).abs();
        assert!(error(&wrong) > Duration::hours(2));
        let read = |it: &Clock| std::future::ready(Ok::<_, ()>(it.now()));
        wrong.synchronize(read(&correct)).await.unwrap();
        assert!(error(&wrong) < Duration::seconds(1));
        correct.synchronize(read(&correct)).await.unwrap();
        assert_eq!(
            correct.offset_us.load(Ordering::Relaxed),
            0,
            "a correct clock keeps its offset"
        );
    }
}
