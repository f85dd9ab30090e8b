//! Metrics: the resource usage of an environment over time, from the samples that heartbeats report.

pub mod wire;

#[cfg(test)]
mod tests;

use chassis::id;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::types::EnvironmentId;

/// Time for which the metrics of minutes can be read: a day, and an hour more for clients that compute a day
/// with clocks of their own.
pub const MINUTE_RETENTION: Duration = Duration::hours(25);

/// Time for which the metrics of hours can be read: ninety days, and a day more for partial days.
pub const HOUR_RETENTION: Duration = Duration::days(91);

/// Largest number of points in a response.
pub const POINTS_MAX: i64 = 1_500;

/// Samples of an environment in a minute or an hour.
#[derive(Clone, Debug)]
pub struct Metric {
    pub environment_id: EnvironmentId,
    /// Has the time at which the minute or hour begins.
    pub id: Uuid,
    pub sample_count: i32,
    pub cpu_cores_sum: f64,
    pub cpu_cores_max: f64,
    /// Not an integer, whose range the sum could exceed.
    pub memory_bytes_sum: f64,
    pub memory_bytes_max: i64,
    /// Of the last sample.
    pub disk_bytes: i64,
    pub request_count: f64,
    pub error_count: f64,
    /// Sum of the durations of requests, in seconds.
    pub duration_s_sum: f64,
    pub received_bytes: f64,
    pub sent_bytes: f64,
}

impl Metric {
    fn start(&self) -> OffsetDateTime {
        id::time_of(self.id).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// Adds the samples of a later metric.
    fn add(&mut self, later: &Self) {
        self.sample_count = self.sample_count.saturating_add(later.sample_count);
        self.cpu_cores_sum += later.cpu_cores_sum;
        self.cpu_cores_max = self.cpu_cores_max.max(later.cpu_cores_max);
        self.memory_bytes_sum += later.memory_bytes_sum;
        self.memory_bytes_max = self.memory_bytes_max.max(later.memory_bytes_max);
        self.disk_bytes = later.disk_bytes;
        self.request_count += later.request_count;
        self.error_count += later.error_count;
        self.duration_s_sum += later.duration_s_sum;
        self.received_bytes += later.received_bytes;
        self.sent_bytes += later.sent_bytes;
    }
}

/// Stored metrics of which points are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    Minute,
    Hour,
}

/// Valid time range of a curve.
#[derive(Debug, PartialEq, Eq)]
pub struct MetricRange {
    /// A multiple of the step since 1970.
    pub start: OffsetDateTime,
    /// Exclusive.
    pub end: OffsetDateTime,
    pub step: Duration,
    pub resolution: Resolution,
}

/// Time range as a client requests it; `None` for a default.
#[derive(Clone, Copy, Debug)]
pub struct RequestedRange {
    pub start: Option<OffsetDateTime>,
    pub end: Option<OffsetDateTime>,
    pub step: Option<Duration>,
}

/// Invalid field of a time range.
#[derive(Debug, PartialEq, Eq)]
pub struct RangeViolation {
    pub field: &'static str,
    pub description: String,
}

impl MetricRange {
    /// Checks a requested range. By default it ends now, begins a day before its end, and has the shortest
    /// step of a minute, an hour and a day that is valid.
    pub fn new(
        requested: RequestedRange,
        now: OffsetDateTime,
    ) -> Result<Self, Vec<RangeViolation>> {
        let end = requested.end.unwrap_or(now);
        let start = requested.start.or(end.checked_sub(Duration::DAY)).unwrap_or(end);
        let step = requested.step.unwrap_or_else(|| default_step(start, end, now));
        let mut violations = vec![];
        let mut refuse = |field, description: &str| {
            violations.push(RangeViolation { field, description: description.to_owned() });
        };
        if start < now - HOUR_RETENTION {
            refuse("start_time", "must be within the last 90 days, for which metrics are kept");
        }
        if end <= start {
            refuse("end_time", "must be after start_time");
        }
        let is_valid_step = is_valid_step(step);
        if !is_valid_step {
            let description = "must be from a minute to a day, in whole minutes below an hour, and in whole \
                               hours from there on";
            refuse("step", description);
        } else if step < Duration::HOUR && start < now - MINUTE_RETENTION {
            refuse("step", "must be at least an hour if start_time is more than a day ago");
        }
        let count = if is_valid_step { point_count(start, end, step) } else { 0 };
        if count > POINTS_MAX {
            let description = format!(
                "makes {count} points of this time range, more than {POINTS_MAX}: choose a longer step or a \
                 shorter range"
            );
            refuse("step", &description);
        }
        if !violations.is_empty() {
            return Err(violations);
        }
        let is_of_minutes = step < Duration::HOUR;
        let resolution = if is_of_minutes { Resolution::Minute } else { Resolution::Hour };
        Ok(Self { start: floor(start, step), end, step, resolution })
    }

    /// Sums metrics of one environment up to one for each step that has any. They are sorted by time.
    pub fn points(&self, metrics: &[Metric]) -> Vec<Metric> {
        let mut points: Vec<Metric> = vec![];
        for metric in metrics {
            let start = id::lower_bound(floor(metric.start(), self.step));
            match points.last_mut().filter(|it| it.id == start) {
                Some(point) => point.add(metric),
                None => points.push(Metric { id: start, ..metric.clone() }),
            }
        }
        points
    }
}

/// Begin of the curve of an overview: the current hour and the 23 before it.
pub fn day_start(now: OffsetDateTime) -> OffsetDateTime {
    floor(now, Duration::HOUR) - Duration::hours(23)
}

fn is_valid_step(step: Duration) -> bool {
    let is_in_bounds = (Duration::MINUTE..=Duration::DAY).contains(&step);
    let unit = if step < Duration::HOUR { Duration::MINUTE } else { Duration::HOUR };
    is_in_bounds && step.whole_nanoseconds() % unit.whole_nanoseconds() == 0
}

fn default_step(start: OffsetDateTime, end: OffsetDateTime, now: OffsetDateTime) -> Duration {
    let is_valid = |step: &Duration| {
        let is_kept = *step >= Duration::HOUR || start >= now - MINUTE_RETENTION;
        is_kept && point_count(start, end, *step) <= POINTS_MAX
    };
    [Duration::MINUTE, Duration::HOUR].into_iter().find(is_valid).unwrap_or(Duration::DAY)
}

/// Number of steps that a range touches.
fn point_count(start: OffsetDateTime, end: OffsetDateTime, step: Duration) -> i64 {
    let step = step.whole_seconds();
    let last = end.saturating_sub(Duration::NANOSECOND).unix_timestamp();
    last.div_euclid(step) - start.unix_timestamp().div_euclid(step) + 1
}

/// The last multiple of a step since 1970 that is not after a time.
fn floor(time: OffsetDateTime, step: Duration) -> OffsetDateTime {
    let step = step.whole_seconds();
    let seconds = time.unix_timestamp().div_euclid(step) * step;
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time)
}
