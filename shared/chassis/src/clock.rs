//! The only source of time: the database's clock, which is one for all replicas (G-17). The machine's own
//! clock only counts on from the last look at it.

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

/// The wall clock, which a test can move.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// By how much the database's clock is ahead of the machine's.
    skew_us: Arc<AtomicI64>,
    ahead_ms: Arc<AtomicI64>,
    /// By how much the machine's clock is wrong, in a test.
    wrong: Duration,
}

/// A difference that is no more than what asking takes.
const TOLERANCE: Duration = Duration::milliseconds(10);

/// A difference that an operator should know of.
const NOTEWORTHY: Duration = Duration::seconds(1);

impl Clock {
    /// A machine's clock that is wrong, for tests.
    #[must_use]
    pub fn wrong_by(wrong: Duration) -> Self {
        Self { wrong, ..Self::default() }
    }

    /// The present moment, to the microsecond, which is what the database keeps.
    pub fn now(&self) -> OffsetDateTime {
        let now = self.own()
            + Duration::microseconds(self.skew_us.load(Ordering::Relaxed))
            + Duration::milliseconds(self.ahead_ms.load(Ordering::Relaxed));
        now.replace_nanosecond(now.nanosecond() / 1_000 * 1_000).unwrap_or(now)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn own(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + self.wrong
    }

    /// Follows another clock, which `read` reads. An answer that took long says little, and changes nothing.
    pub(crate) async fn follow<E>(
        &self,
        read: impl Future<Output = Result<OffsetDateTime, E>>,
    ) -> Result<(), E> {
        let before = self.own();
        let there = read.await?;
        let took: Duration = self.own() - before;
        let skew: Duration = there - (before + took / 2);
        let known = Duration::microseconds(self.skew_us.load(Ordering::Relaxed));
        if took > NOTEWORTHY / 4 || (skew - known).abs() < TOLERANCE.max(took) {
            return Ok(());
        }
        if (skew - known).abs() > NOTEWORTHY {
            let behind_s = skew.as_seconds_f64();
            tracing::warn!(behind_s, "this machine's clock is not the database's, which counts");
        }
        let skew = i64::try_from(skew.whole_microseconds()).unwrap_or_default();
        self.skew_us.store(skew, Ordering::Relaxed);
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// G-17.
    #[tokio::test]
    async fn the_machines_clock_may_be_wrong() {
        let (right, wrong) = (Clock::default(), Clock::wrong_by(Duration::hours(-3)));
        let off = |it: &Clock| (it.now() - right.now()).abs();
        assert!(off(&wrong) > Duration::hours(2));
        let read = |it: &Clock| std::future::ready(Ok::<_, ()>(it.now()));
        wrong.follow(read(&right)).await.unwrap();
        assert!(off(&wrong) < Duration::seconds(1));
        right.follow(read(&right)).await.unwrap();
        assert_eq!(right.skew_us.load(Ordering::Relaxed), 0, "a clock that is right is left alone");
    }
}
