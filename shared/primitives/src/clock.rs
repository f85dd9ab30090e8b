//! The only source of time. All replicas use the database's clock (G-17): each measures the offset of its
//! machine's boot-time clock (`CLOCK_BOOTTIME`) to the database's, and adds it to every time that it reads.
//! The boot-time clock runs evenly, so a jump of the machine's wall clock changes no time. A jump can also
//! mean that the machine was paused, so it causes a new measurement at once.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use prost_types::Timestamp;
use rustix::time::{ClockId, clock_gettime};
pub use time::Duration;
use time::OffsetDateTime;
use tokio::sync::Notify;

/// The wall clock. Clones share their state, and tests can move it.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Unix time of the database less the boot-time clock, in microseconds. Before the first measurement the
    /// machine's wall clock takes the place of the database's.
    offset_us: AtomicI64,
    /// Unix time of the machine's wall clock less the boot-time clock, in microseconds, at the last use.
    wall_offset_us: AtomicI64,
    /// Notified when the wall clock has jumped.
    jumped: Notify,
    /// Time by which a test has advanced the clock, in microseconds.
    advanced_us: AtomicI64,
    /// Simulated error of the machine's wall clock, for tests, in microseconds.
    wall_error_us: AtomicI64,
    /// Unix time at which a test has stopped this clock, in microseconds; 0: it runs.
    stopped_us: AtomicI64,
}

/// Smallest change of the offset that is applied: smaller ones are within the error of the measurement.
const TOLERANCE_US: i64 = 10_000;

/// Smallest change of the offset that is logged as a warning, and smallest jump of the wall clock.
const WARN_ABOVE_US: i64 = 1_000_000;

impl Default for Clock {
    fn default() -> Self {
        Self::skewed_by(Duration::ZERO)
    }
}

impl Clock {
    /// Creates a clock on a machine whose own clock is wrong by `machine_error`, for tests.
    #[must_use]
    pub fn skewed_by(machine_error: Duration) -> Self {
        let shared = Shared {
            offset_us: AtomicI64::default(),
            wall_offset_us: AtomicI64::default(),
            jumped: Notify::new(),
            advanced_us: AtomicI64::default(),
            wall_error_us: AtomicI64::new(microseconds(machine_error)),
            stopped_us: AtomicI64::default(),
        };
        let offset_us = shared.wall_us() - boot_us();
        shared.offset_us.store(offset_us, Ordering::Relaxed);
        shared.wall_offset_us.store(offset_us, Ordering::Relaxed);
        Self(Arc::new(shared))
    }

    /// Returns the current time in microseconds, the resolution of PostgreSQL.
    pub fn now(&self) -> OffsetDateTime {
        let boot_us = boot_us();
        let wall_offset_us = self.0.wall_us() - boot_us;
        let previous_us = self.0.wall_offset_us.load(Ordering::Relaxed);
        if (wall_offset_us - previous_us).abs() > WARN_ABOVE_US {
            self.0.wall_offset_us.store(wall_offset_us, Ordering::Relaxed);
            self.0.jumped.notify_one();
        }
        let stopped_us = self.0.stopped_us.load(Ordering::Relaxed);
        let offset_us = self.0.offset_us.load(Ordering::Relaxed);
        let unix_us = if stopped_us == 0 { boot_us + offset_us } else { stopped_us }
            + self.0.advanced_us.load(Ordering::Relaxed);
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_us) * 1_000)
            .expect("the clock shows a year that the database can store")
    }

    /// Resolves when the machine's wall clock has jumped.
    pub async fn jump(&self) {
        self.0.jumped.notified().await;
    }

    /// Measures the offset to another clock, which `read` reads, and applies it. The error of the measurement
    /// is half the duration of the read, so a slow read is ignored.
    pub async fn synchronize<E>(
        &self,
        read: impl Future<Output = Result<OffsetDateTime, E>>,
    ) -> Result<(), E> {
        let before_us = boot_us();
        let remote_time = read.await?;
        let took_us = boot_us() - before_us;
        let offset_us = unix_us(remote_time) - (before_us + took_us / 2);
        let change_us = offset_us - self.0.offset_us.load(Ordering::Relaxed);
        if took_us > WARN_ABOVE_US / 4 || change_us.abs() < TOLERANCE_US.max(took_us) {
            return Ok(());
        }
        if change_us.abs() > WARN_ABOVE_US {
            tracing::warn!(
                change_ms = change_us / 1_000,
                "this machine's clock differs from the database's, which is used; check its NTP service"
            );
        }
        self.0.offset_us.store(offset_us, Ordering::Relaxed);
        Ok(())
    }

    /// Advances the clock and all its clones, for tests.
    pub fn advance(&self, by: Duration) {
        self.0.advanced_us.fetch_add(microseconds(by), Ordering::Relaxed);
    }

    /// Stops the clock and all its clones, for tests: only [`Self::advance`] moves it, no measurement does.
    pub fn stop(&self) {
        let unix_us = boot_us() + self.0.offset_us.load(Ordering::Relaxed);
        self.0.stopped_us.store(unix_us, Ordering::Relaxed);
    }

    /// Makes the machine's wall clock jump, for tests.
    pub fn jump_wall_clock(&self, by: Duration) {
        self.0.wall_error_us.fetch_add(microseconds(by), Ordering::Relaxed);
    }
}

impl Shared {
    /// Unix time of the machine's wall clock, in microseconds.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn wall_us(&self) -> i64 {
        unix_us(OffsetDateTime::now_utc()) + self.wall_error_us.load(Ordering::Relaxed)
    }
}

/// Time since the start of the machine, including the time in which it was suspended, in microseconds.
fn boot_us() -> i64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}

fn unix_us(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000).expect("a year below 290,000")
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.whole_microseconds()).expect("a test moves the clock by years at most")
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
        let offset_us = correct.0.offset_us.load(Ordering::Relaxed);
        correct.synchronize(read(&correct)).await.unwrap();
        let kept_us = correct.0.offset_us.load(Ordering::Relaxed);
        assert_eq!(kept_us, offset_us, "a correct clock keeps its offset");
    }

    /// A test that stops the clock compares times that were stored before and after a measurement.
    #[tokio::test]
    async fn only_a_test_moves_a_stopped_clock() {
        let clock = Clock::skewed_by(Duration::seconds(5));
        clock.stop();
        let stopped_at = clock.now();
        let correct = Clock::default();
        clock.synchronize(std::future::ready(Ok::<_, ()>(correct.now()))).await.unwrap();
        assert_eq!(clock.now(), stopped_at);
        clock.advance(Duration::seconds(1));
        assert_eq!(clock.now(), stopped_at + Duration::seconds(1));
    }

    /// A jump of the wall clock changes no time, and is reported at the next use.
    #[tokio::test]
    async fn a_jump_of_the_wall_clock_changes_no_time() {
        let clock = Clock::default();
        for jump in [Duration::hours(3), Duration::days(-400)] {
            let before = clock.now();
            clock.jump_wall_clock(jump);
            assert!((clock.now() - before).abs() < Duration::minutes(1), "{jump}");
            clock.jump().await;
        }
    }
}
